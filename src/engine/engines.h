/*
 * The engines that exist, for the table in engines.c only. Everyone else asks engine_choose().
 */
#ifndef ENGINE_ENGINES_H
#define ENGINE_ENGINES_H

#include "engine/engine.h"

extern const struct engine_ops kvm_engine;
extern const struct engine_ops bt_engine;

#endif
