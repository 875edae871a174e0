/*
 * The version, as --version and bhyve -h tell it.
 */
#ifndef BHYVE_VERSION_H
#define BHYVE_VERSION_H

#define BHYVE_VERSION "0.1.0"

#endif
