/*
 * The command line: what each option sets, and the exact message when its form is wrong.
 */
#include "bhyve/options.h"

#include "base/bits.h"
#include "base/config.h"
#include "capture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ARGS_MAX 12

struct result {
	int err;
	enum options_action action;
	char *dump; /* the tree; free() */
	struct capture said;
	const char *message;
};

static void
run(struct result *r, const char *const *args)
{
	struct config *root = config_create();
	char *argv[ARGS_MAX + 2] = { (char *)"bhyve" };
	size_t len;
	FILE *out;
	int argc = 1;

	for (; args[argc - 1] != NULL; argc++)
		argv[argc] = (char *)args[argc - 1];
	capture_begin(&r->said);
	r->err = options_parse(argc, argv, root, &r->action);
	r->message = capture_end(&r->said);
	out = open_memstream(&r->dump, &len);
	options_dump(root, out);
	fclose(out);
	config_destroy(root);
}

/* --- Good --- */

static const struct good {
	const char *args[ARGS_MAX];
	const char *dump;
} good[] = {
	{ { NULL }, "" },
	{ { "vm1" }, "name=vm1\n" },
	{ { "--", "vm1" }, "name=vm1\n" },
	{ { "-A" }, "acpi_tables=true\n" },
	{ { "-a" }, "x86.x2apic=false\n" },
	{ { "-C" }, "memory.guest_in_core=true\n" },
	{ { "-D" }, "destroy_on_poweroff=true\n" },
	{ { "-e" }, "x86.strictio=true\n" },
	{ { "-H" }, "x86.vmexit_on_hlt=true\n" },
	{ { "-P" }, "x86.vmexit_on_pause=true\n" },
	{ { "-S" }, "memory.wired=true\n" },
	{ { "-u" }, "rtc.use_localtime=false\n" },
	{ { "-W" }, "virtio_msix=false\n" },
	{ { "-w" }, "x86.strictmsr=false\n" },
	{ { "-x" }, "x86.x2apic=true\n" },
	{ { "-Y" }, "x86.mptable=false\n" },
	{ { "-HPm", "1G", "vm1" },
	    "x86.vmexit_on_hlt=true\nx86.vmexit_on_pause=true\nmemory.size=1G\nname=vm1\n" },
	{ { "-HPm1G", "vm1" },
	    "x86.vmexit_on_hlt=true\nx86.vmexit_on_pause=true\nmemory.size=1G\nname=vm1\n" },
	/* The last value wins. */
	{ { "-x", "-a" }, "x86.x2apic=false\n" },
	{ { "-m", "1G", "-o", "memory.size=2G" }, "memory.size=2G\n" },
	{ { "-l", "com1,stdio", "-l", "com1,pty" }, "lpc.com1.path=pty\n" },

	{ { "-c", "4" }, "cpus=4\n" },
	{ { "-c", "cpus=4" }, "cpus=4\n" },
	{ { "-c", "8,sockets=2,cores=2,threads=2" }, "cpus=8\nsockets=2\ncores=2\nthreads=2\n" },
	{ { "-c", "sockets=2,sockets=3" }, "sockets=3\n" },
	{ { "-f", "opt/a.b,string=x,y=z" },
	    "fwcfg.file.0.name=opt/a.b\nfwcfg.file.0.string=x,y=z\n" },
	{ { "-f", "a,file=/x", "-f", "b,string=" },
	    "fwcfg.file.0.name=a\nfwcfg.file.0.file=/x\nfwcfg.file.1.name=b\n"
	    "fwcfg.file.1.string=\n" },
	{ { "-G", "1234" }, "gdb.port=1234\n" },
	{ { "-G", "w127.0.0.1:1234" },
	    "gdb.wait=true\ngdb.address=127.0.0.1\ngdb.port=1234\n" },
	{ { "-K", "de" }, "keyboard.layout=de\n" },
	{ { "-m", "512" }, "memory.size=512\n" },
	{ { "-n", "id=1,size=4G,cpus=0-1,domain_policy=prefer:0" },
	    "domains.1.size=4G\ndomains.1.cpus=0-1\ndomains.1.domain_policy=prefer:0\n" },
	{ { "-o", "boot.cmdline=console=ttyS0 quiet" }, "boot.cmdline=console=ttyS0 quiet\n" },
	{ { "-o", "boot.cmdline=" }, "boot.cmdline=\n" },
	{ { "-o", "a=%(name)" }, "a=%(name)\n" },
	{ { "-p", "0:12", "-p", "1:13", "-p", "0:14" },
	    "vcpu.0.cpuset=12,14\nvcpu.1.cpuset=13\n" },
	{ { "-p", "00:07" }, "vcpu.0.cpuset=7\n" },
	{ { "-r", "/file" }, "restore=/file\n" },
	{ { "-U", "01234567-89ab-cdef-0123-456789abcdef" },
	    "uuid=01234567-89ab-cdef-0123-456789abcdef\n" },

	{ { "-l", "com1" }, "lpc.com1.path=\n" },
	{ { "-l", "com2,tcp=127.0.0.1:1234" }, "lpc.com2.path=tcp=127.0.0.1:1234\n" },
	{ { "-l", "bootrom,/rom.fd" }, "lpc.bootrom=/rom.fd\n" },
	{ { "-l", "bootrom,/rom.fd,/vars.fd" }, "lpc.bootrom=/rom.fd\nlpc.bootvars=/vars.fd\n" },
	{ { "-l", "bootrom,/rom.fd,fwcfg=qemu" }, "lpc.bootrom=/rom.fd\nlpc.fwcfg=qemu\n" },
	{ { "-l", "fwcfg,qemu" }, "lpc.fwcfg=qemu\n" },
	{ { "-l", "pc-testdev" }, "lpc.pc-testdev=true\n" },
	{ { "-l", "tpm,swtpm,/sock,version=2.0" },
	    "tpm.type=swtpm\ntpm.path=/sock\ntpm.version=2.0\n" },

	{ { "-s", "0,hostbridge" }, "pci.0.0.0.device=hostbridge\n" },
	{ { "-s", "31:7,lpc" }, "pci.0.31.7.device=lpc\n" },
	{ { "-s", "255:1:2,virtio-rnd" }, "pci.255.1.2.device=virtio-rnd\n" },
	{ { "-s", "3,virtio-blk,/a=b,ro,sectorsize=512/4096" },
	    "pci.0.3.0.device=virtio-blk\npci.0.3.0.path=/a=b\npci.0.3.0.ro=true\n"
	    "pci.0.3.0.sectorsize=512/4096\n" },
	{ { "-s", "3,virtio-net,tap0,mac=00:be:fa:76:45:00" },
	    "pci.0.3.0.device=virtio-net\npci.0.3.0.backend=tap0\n"
	    "pci.0.3.0.mac=00:be:fa:76:45:00\n" },
	{ { "-s", "3,e1000,mac=00:be:fa:76:45:00" },
	    "pci.0.3.0.device=e1000\npci.0.3.0.mac=00:be:fa:76:45:00\n" },
	{ { "-s", "1,ahci,hd:/a,ro,nmrr=1,cd:/b" },
	    "pci.0.1.0.device=ahci\npci.0.1.0.port.0.type=hd\npci.0.1.0.port.0.path=/a\n"
	    "pci.0.1.0.port.0.ro=true\npci.0.1.0.port.0.nmrr=1\npci.0.1.0.port.1.type=cd\n"
	    "pci.0.1.0.port.1.path=/b\n" },
	{ { "-s", "1,ahci-hd,/a,ser=1" },
	    "pci.0.1.0.device=ahci-hd\npci.0.1.0.port.0.type=hd\npci.0.1.0.port.0.path=/a\n"
	    "pci.0.1.0.port.0.ser=1\n" },
	{ { "-s", "1,ahci-cd,/a" },
	    "pci.0.1.0.device=ahci-cd\npci.0.1.0.port.0.type=cd\npci.0.1.0.port.0.path=/a\n" },
	{ { "-s", "1,nvme,ram=64,maxq=4" },
	    "pci.0.1.0.device=nvme\npci.0.1.0.ram=64\npci.0.1.0.maxq=4\n" },
	{ { "-s", "1,nvme,/disk" }, "pci.0.1.0.device=nvme\npci.0.1.0.path=/disk\n" },
	{ { "-s", "1,passthru,2/3/4,rom=/r" },
	    "pci.0.1.0.device=passthru\npci.0.1.0.bus=2\npci.0.1.0.slot=3\npci.0.1.0.func=4\n"
	    "pci.0.1.0.rom=/r\n" },
	{ { "-s", "1,passthru,pci2:3:4" },
	    "pci.0.1.0.device=passthru\npci.0.1.0.bus=2\npci.0.1.0.slot=3\npci.0.1.0.func=4\n" },
	{ { "-s", "1,passthru,ppt0" }, "pci.0.1.0.device=passthru\npci.0.1.0.pptdev=ppt0\n" },
	{ { "-s", "1,virtio-9p,share=/dir,ro" },
	    "pci.0.1.0.device=virtio-9p\npci.0.1.0.sharename=share\npci.0.1.0.path=/dir\n"
	    "pci.0.1.0.ro=true\n" },
	{ { "-s", "1,virtio-console,a=/a.sock,b=/b.sock" },
	    "pci.0.1.0.device=virtio-console\npci.0.1.0.port.0.name=a\n"
	    "pci.0.1.0.port.0.path=/a.sock\npci.0.1.0.port.1.name=b\n"
	    "pci.0.1.0.port.1.path=/b.sock\n" },
	{ { "-s", "1,virtio-scsi,/dev/cam/ctl,iid=3" },
	    "pci.0.1.0.device=virtio-scsi\npci.0.1.0.dev=/dev/cam/ctl\npci.0.1.0.iid=3\n" },
	{ { "-s", "1,virtio-input,/dev/input/event0" },
	    "pci.0.1.0.device=virtio-input\npci.0.1.0.path=/dev/input/event0\n" },
	{ { "-s", "1,uart,stdio" }, "pci.0.1.0.device=uart\npci.0.1.0.path=stdio\n" },
	{ { "-s", "1,xhci,tablet" }, "pci.0.1.0.device=xhci\npci.0.1.0.slot.1.device=tablet\n" },
	{ { "-s", "1,fbuf,rfb=:5900,w=800,wait" },
	    "pci.0.1.0.device=fbuf\npci.0.1.0.rfb=:5900\npci.0.1.0.w=800\npci.0.1.0.wait=true\n" },
	{ { "-s", "1,hda,play=/dev/dsp0" },
	    "pci.0.1.0.device=hda\npci.0.1.0.play=/dev/dsp0\n" },
	{ { "-s", "0,amd_hostbridge" }, "pci.0.0.0.device=amd_hostbridge\n" },
};

static void
test_good(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct result r;

		run(&r, good[i].args);
		assert_string_equal(r.message, "");
		assert_string_equal(r.dump, good[i].dump);
		assert_int_equal(r.err, 0);
		assert_int_equal(r.action, OPTIONS_RUN);
		free(r.dump);
	}
}

/* --- Bad --- */

#define S_FORM "slot[:function],device[,conf], bus:slot:function,device[,conf] or help"
#define C_FORM "[cpus=]N[,sockets=N][,cores=N][,threads=N]"
#define N_FORM "id=N[,size=size][,cpus=list][,domain_policy=policy]"
#define F_FORM "name,string=text or name,file=path"
#define COM_FORM "stdio, pty, tcp=ip:port, unix=path or /dev/..."
#define NOT_SET "cannot be set: it is no name, or has variables above or below it"

static const struct bad {
	const char *args[ARGS_MAX];
	const char *message; /* between "bhyve: " and the line's end */
} bad[] = {
	{ { "-Z" }, "-Z: no such option: usage: bhyve [options] vmname, see bhyve -h" },
	{ { "-HZ" }, "-Z: no such option: usage: bhyve [options] vmname, see bhyve -h" },
	{ { "--nope" }, "--nope: no such option: usage: bhyve [options] vmname, see bhyve -h" },
	{ { "vm1", "-H" }, "-H: comes after the VM's name 'vm1': usage: bhyve [options] vmname" },
	{ { "vm1\n" }, "vmname: the value of name has a control character in it" },
	/* An option that takes an argument, without one. */
	{ { "-c" }, "-c: expected " C_FORM },
	{ { "-f" }, "-f: expected " F_FORM },
	{ { "-G" }, "-G: expected [w][address:]port" },
	{ { "-K" }, "-K: expected layout" },
	{ { "-k" }, "-k: expected file" },
	{ { "-l" }, "-l: expected device[,conf] or help" },
	{ { "-m" }, "-m: expected size[K|M|G|T]" },
	{ { "-m", "" }, "-m: expected size[K|M|G|T]" },
	{ { "-n" }, "-n: expected " N_FORM },
	{ { "-o" }, "-o: expected variable=value" },
	{ { "-p" }, "-p: expected vcpu:hostcpu" },
	{ { "-r" }, "-r: expected file" },
	{ { "-s" }, "-s: expected " S_FORM },
	{ { "-U" }, "-U: expected uuid" },

	{ { "-c", "1,nope=2" }, "-c 1,nope=2: expected " C_FORM },
	{ { "-c", "1," }, "-c 1,: expected " C_FORM },
	{ { "-f", "a" }, "-f a: expected " F_FORM },
	{ { "-f", ",string=a" }, "-f ,string=a: expected " F_FORM },
	{ { "-f", "a,text=a" }, "-f a,text=a: expected " F_FORM },
	{ { "-G", "w" }, "-G w: expected [w][address:]port" },
	{ { "-G", "host:0" }, "-G host:0: expected [w][address:]port" },
	{ { "-G", "65536" }, "-G 65536: expected [w][address:]port" },
	{ { "-k", "/nonexistent" },
	    "-k /nonexistent: cannot open the file: No such file or directory" },
	{ { "-k", "/" }, "-k /: cannot read the file: Is a directory" },
	{ { "-k", "/dev/zero" }, "-k /dev/zero: the file is longer than 64 KiB" },
	{ { "-l", "com5,stdio" }, "-l com5,stdio: no such device: see -l help" },
	{ { "-l", ",stdio" }, "-l ,stdio: no such device: see -l help" },
	{ { "-l", "com1,stdio,x" }, "-l com1,stdio,x: expected -l com1," COM_FORM },
	{ { "-l", "bootrom" }, "-l bootrom: expected -l bootrom,romfile[,varfile]" },
	{ { "-l", "bootrom,,x" }, "-l bootrom,,x: expected -l bootrom,romfile[,varfile]" },
	{ { "-l", "fwcfg" }, "-l fwcfg: expected -l fwcfg,bhyve or qemu" },
	{ { "-l", "tpm,swtpm" }, "-l tpm,swtpm: expected -l tpm,type,path[,version=version]" },
	{ { "-l", "pc-testdev,x" },
	    "-l pc-testdev,x: expected -l pc-testdev and nothing more" },
	{ { "-n", "0,4G" }, "-n 0,4G: expected " N_FORM },
	{ { "-n", "id=0,mem=4G" }, "-n id=0,mem=4G: expected " N_FORM },
	{ { "-o", "cpus" }, "-o cpus: expected variable=value" },
	{ { "-o", "=4" }, "-o =4: expected variable=value" },
	{ { "-o", "a..b=4" }, "-o a..b=4: 'a..b' " NOT_SET },
	{ { "-o", "a b=4" }, "-o a b=4: 'a b' " NOT_SET },
	{ { "-l", "com1", "-o", "lpc=4" }, "-o lpc=4: 'lpc' " NOT_SET },
	{ { "-o", "a=1", "-o", "a.b=4" }, "-o a.b=4: 'a.b' " NOT_SET },
	{ { "-o", "a=\n" }, "-o a=?: the value of a has a control character in it" },
	{ { "-p", "0" }, "-p 0: expected vcpu:hostcpu" },
	{ { "-p", "0:" }, "-p 0:: expected vcpu:hostcpu" },
	{ { "-p", "a:0" }, "-p a:0: expected vcpu:hostcpu" },
	{ { "-p", "0:1:2" }, "-p 0:1:2: expected vcpu:hostcpu" },
	{ { "-s", "3" }, "-s 3: expected " S_FORM },
	{ { "-s", ",lpc" }, "-s ,lpc: expected " S_FORM },
	{ { "-s", "a,lpc" }, "-s a,lpc: expected " S_FORM },
	{ { "-s", "1:2:3:4,lpc" }, "-s 1:2:3:4,lpc: expected " S_FORM },
	{ { "-s", "-1,lpc" }, "-s -1,lpc: expected " S_FORM },
	{ { "-s", "32,lpc" }, "-s 32,lpc: slot 32: expected 0 to 31" },
	{ { "-s", "0:8,lpc" }, "-s 0:8,lpc: function 8: expected 0 to 7" },
	{ { "-s", "256:0:0,lpc" }, "-s 256:0:0,lpc: bus 256: expected 0 to 255" },
	{ { "-s", "3,nope" }, "-s 3,nope: no such device: see -s help" },
	{ { "-s", "3," }, "-s 3,: no such device: see -s help" },
	{ { "-s", "3,lpc", "-s", "0:3:0,e1000" },
	    "-s 0:3:0,e1000: pci.0.3.0 is already taken by lpc" },
	{ { "-o", "pci=1", "-s", "3,lpc" }, "-s 3,lpc: pci.0.3.0 cannot hold a device" },
	{ { "-s", "1,ahci,/disk" }, "-s 1,ahci,/disk: '/disk': expected hd:path or cd:path first" },
	{ { "-s", "1,passthru,2/3" },
	    "-s 1,passthru,2/3: '2/3': expected pptN, bus/slot/function or pcibus:slot:function" },
	{ { "-s", "1,virtio-9p,/dir" },
	    "-s 1,virtio-9p,/dir: '/dir': expected sharename=path" },
	{ { "-s", "1,virtio-console,x" },
	    "-s 1,virtio-console,x: 'x': expected portname=path" },
};

static void
test_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct result r;
		char line[512];

		run(&r, bad[i].args);
		snprintf(line, sizeof(line), "bhyve: %s\n", bad[i].message);
		assert_string_equal(r.message, line);
		assert_int_equal(r.err < 0, 1);
		free(r.dump);
	}
}

/* --- Help --- */

static void
test_actions(void **state)
{
	static const struct {
		const char *args[ARGS_MAX];
		enum options_action action;
	} asks[] = {
		{ { "-h" }, OPTIONS_HELP },
		{ { "--help" }, OPTIONS_HELP },
		{ { "-Hh", "-Z" }, OPTIONS_HELP },
		{ { "--version" }, OPTIONS_VERSION },
		{ { "-s", "help" }, OPTIONS_HELP_PCI },
		{ { "-l", "help", "-Z" }, OPTIONS_HELP_LPC },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(asks); i++) {
		struct result r;

		run(&r, asks[i].args);
		assert_string_equal(r.message, "");
		assert_int_equal(r.err, 0);
		assert_int_equal(r.action, asks[i].action);
		free(r.dump);
	}
}

/* Every option of bhyve(8) is in the help. */
static void
test_help_text(void **state)
{
	static const char letters[] = "AaCcDefGHhKklmnoPprSsUuWwxY";
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	options_print_help(out);
	fclose(out);
	for (const char *l = letters; *l != '\0'; l++) {
		char start[8];

		snprintf(start, sizeof(start), "\n  -%c ", *l);
		assert_non_null(strstr(text, start));
	}
	free(text);
}

/* --- Files --- */

static int
parse_text(const char *text, size_t len, char **dump, struct capture *said)
{
	struct config *root = config_create();
	size_t dump_len;
	FILE *out = open_memstream(dump, &dump_len);
	int err;

	capture_begin(said);
	err = options_parse_text(root, "vm.conf", text, len);
	capture_end(said);
	options_dump(root, out);
	fclose(out);
	config_destroy(root);
	return err;
}

static void
test_file_good(void **state)
{
	static const char text[] = "# a comment\n\ncpus=2\nboot.cmdline=a=b # c\n#x=y\n"
				   "cpus=3\nlpc.com1.path=stdio";
	struct capture said;
	char *dump, *again;

	(void)state;
	assert_int_equal(parse_text(text, sizeof(text) - 1, &dump, &said), 0);
	assert_string_equal(said.text, "");
	assert_string_equal(dump, "cpus=3\nboot.cmdline=a=b # c\nlpc.com1.path=stdio\n");
	/* What is dumped reads back as the same. */
	assert_int_equal(parse_text(dump, strlen(dump), &again, &said), 0);
	assert_string_equal(dump, again);
	free(dump);
	free(again);
}

static void
test_file_bad(void **state)
{
	static const struct {
		const char *text;
		size_t len;
		const char *message;
	} files[] = {
		{ "a=1\nb\n", 6, "bhyve: vm.conf:2: expected variable=value\n" },
		{ " \n", 2, "bhyve: vm.conf:1: expected variable=value\n" },
		{ "a =1\n", 5, "bhyve: vm.conf:1: 'a ' " NOT_SET "\n" },
		{ "a=1\r\n", 5,
		    "bhyve: vm.conf:1: the value of a has a control character in it\n" },
		{ "a=1\nb=\0\n", 8, "bhyve: vm.conf:2: there is a zero byte in this line\n" },
	};
	char long_name[300];
	struct capture said;
	char *dump;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		assert_int_equal(parse_text(files[i].text, files[i].len, &dump, &said), -EINVAL);
		assert_string_equal(said.text, files[i].message);
		free(dump);
	}
	memset(long_name, 'a', sizeof(long_name));
	long_name[256] = '=';
	assert_int_equal(parse_text(long_name, sizeof(long_name), &dump, &said), -EINVAL);
	assert_string_equal(said.text, "bhyve: vm.conf:1: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...': "
				       "a name has at most 255 characters\n");
	free(dump);
}

/* -k takes its place among the options: later ones override it, and it overrides earlier ones. */
static void
test_file_order(void **state)
{
	char path[] = "/tmp/bhyve-test-XXXXXX";
	const char *args[] = { "-m", "1G", "-c", "2", "-k", path, "-c", "4", "vm2", NULL };
	static const char text[] = "memory.size=2G\ncpus=3\nname=vm1\n";
	int fd = mkstemp(path);
	struct result r;

	(void)state;
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	run(&r, args);
	unlink(path);
	assert_string_equal(r.message, "");
	assert_string_equal(r.dump, "memory.size=2G\ncpus=4\nname=vm2\n");
	free(r.dump);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_actions),
		cmocka_unit_test(test_help_text),
		cmocka_unit_test(test_file_good),
		cmocka_unit_test(test_file_bad),
		cmocka_unit_test(test_file_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
