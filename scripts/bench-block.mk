# What block/ gets from the host's storage beside fio, on a file: make bench-block [FILE=PATH] [SECONDS=3]
bench-block: deps-build
	$Qscripts/install-deps fio
	$Q$(MAKE) --no-print-directory $O/tests/bench/bench_block
	$Q$O/tests/bench/bench_block $(or $(FILE),$O/bench-block.img) $(or $(SECONDS),3)

# The same with the device models in between, played by a driver of ours: make bench-disk [FILE=PATH]
bench-disk: deps-build
	$Qscripts/install-deps fio
	$Q$(MAKE) --no-print-directory $O/tests/bench/bench_disk
	$Q$O/tests/bench/bench_disk $(or $(FILE),$O/bench-disk.img) $(or $(SECONDS),3)

$O/tests/bench/%: tests/bench/%.c $(LIB)
	$(call say,BENCH,$@)
	$Qmkdir -p $(@D)
	$Q$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $< $(LIB) $(LIBS)

.PHONY: bench-block bench-disk
