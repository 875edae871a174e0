/*
 * The command line and -k files with random content. The first byte chooses: text of a file, or
 * arguments separated by zero bytes. Then the tree is checked and dumped, and what was dumped must
 * read back as the same tree.
 */
#include "base/bits.h"
#include "base/config.h"
#include "bhyve/options.h"
#include "bhyve/vars.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_ARGS 32

/* Bytes from 0x80 on stand for these, so that even a short run gets past the first words. */
static const char *const fuzz_words[] = {
	"-A", "-a", "-C", "-c", "-D", "-e", "-f", "-G", "-H", "-K", "-l", "-m", "-n", "-o", "-P",
	"-p", "-r", "-S", "-s", "-U", "-u", "-W", "-w", "-x", "-Y", "com1", "bootrom", "tpm",
	"fwcfg", "pc-testdev", "stdio", "pty", "tcp=", "unix=", "0:", "31", "virtio-blk",
	"virtio-net", "virtio-9p", "virtio-console", "ahci", "ahci-hd", "nvme", "xhci",
	"passthru", "lpc", "hd:", "cd:", "ram=", "pci", "/", ",", "=", ".", "%(", ")", "cpus=",
	"sockets=", "cores=", "threads=", "id=0", ",size=", ",string=", ",file=", "memory.size=",
	"1G", "99999999999T", "uuid=", "01234567-89ab-cdef-0123-456789abcdef", "name=",
	"boot.kernel=", "/dev/null", "boot.cmdline=", "boot.initrd=", "engine=", "auto",
	"lpc.com1.path=", "lpc.com2.path=", "pci.0.3.0.", "device=", "vcpu.0.cpuset=",
	"gdb.port=", "x86.strictio=", "true", "vm", "\n", "#", "65535",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Expands the bytes that stand for words. free() the result. */
static char *
fuzz_expand(const uint8_t *data, size_t size, size_t *len)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, len);

	for (size_t i = 0; i < size; i++) {
		if (data[i] >= 0x80)
			fputs(fuzz_words[data[i] % ARRAY_SIZE(fuzz_words)], out);
		else
			fputc(data[i], out);
	}
	fclose(out);
	return text;
}

/* -k would open whatever file the input names, a terminal or a FIFO among them; the text of files
 * is covered by the other kind of input. */
static bool
fuzz_opens_file(char *const *argv, int argc)
{
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] == '-' && strchr(argv[i], 'k') != NULL)
			return true;
	}
	return false;
}

static int
fuzz_arguments(struct config *root, char *text, size_t len)
{
	char *argv[FUZZ_ARGS + 1] = { (char *)"bhyve" };
	enum options_action action;
	int argc = 1;

	for (char *p = text; argc < FUZZ_ARGS && p < text + len; p += strlen(p) + 1)
		argv[argc++] = p;
	return fuzz_opens_file(argv, argc) ? -1 : options_parse(argc, argv, root, &action);
}

static char *
fuzz_dump(const struct config *root, size_t *len)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, len);

	options_dump(root, out);
	fclose(out);
	return text;
}

static void
fuzz_check_dump(const struct config *root)
{
	struct config *again = config_create();
	size_t len, again_len;
	char *text = fuzz_dump(root, &len), *again_text;

	if (options_parse_text(again, "dump", text, len) != 0)
		abort();
	again_text = fuzz_dump(again, &again_len);
	if (len != again_len || memcmp(text, again_text, len) != 0)
		abort();
	free(again_text);
	free(text);
	config_destroy(again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *root;
	char *text;
	size_t len;

	if (size < 1)
		return 0;
	root = config_create();
	text = fuzz_expand(data + 1, size - 1, &len);
	if (data[0] % 2 == 0)
		(void)options_parse_text(root, "file", text, len);
	else
		(void)fuzz_arguments(root, text, len);
	(void)vars_check(root);
	fuzz_check_dump(root);
	free(text);
	config_destroy(root);
	return 0;
}
