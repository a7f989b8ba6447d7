# How a plug-in in C is built and tested. A plug-in's Makefile sets NAME, KIND (filter or processor) and SOURCES, and includes
# this file. Variables that may be given to make: BUILD, the folder for what is made; ZIG, the compiler.
#
#   make            makes the WebAssembly module $(BUILD)/$(NAME).wasm, of which `tailweir plugin build` makes the component
#   make component  makes the component $(NAME).wasm of it with wasm-tools
#   make test       compiles test.c for this machine, without a host, and runs it
HELPER := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
BUILD = build
# Comes with `python3 -m pip install ziglang`: clang with a C library for WebAssembly.
ZIG = python3 -m ziglang
BINDINGS = $(HELPER)/bindings/$(KIND)
FLAGS = -std=c11 -Wall -Wextra -Werror -I$(HELPER) -I$(BINDINGS)
# What there is for plug-ins of each kind, and what takes its host's place in tests. Of what a plug-in does not call, state and
# metrics for example, nothing gets into the module.
filter_parts = tailweir.c json.c metrics.c filter.c
processor_parts = tailweir.c json.c metrics.c state.c processor.c
filter_testing = testing.c testing_metrics.c
processor_testing = $(filter_testing) testing_state.c
COMMON = $(SOURCES) $(addprefix $(HELPER)/,$($(KIND)_parts))
TESTING = $(addprefix $(HELPER)/,$($(KIND)_testing))
HEADERS = $(wildcard $(HELPER)/*.h) $(BINDINGS)/plugin.h

module: $(BUILD)/$(NAME).wasm

component: $(NAME).wasm

$(NAME).wasm: $(BUILD)/$(NAME).wasm
	wasm-tools component new $< -o $@

$(BUILD)/$(NAME).wasm: $(COMMON) $(HEADERS) $(BUILD)/$(KIND).bindings.o $(BUILD)/$(KIND).world.o
	$(ZIG) cc -target wasm32-wasi -mexec-model=reactor -Os -s -Wl,-z,stack-size=65536 $(FLAGS) $(COMMON) \
	  $(BUILD)/$(KIND).bindings.o $(BUILD)/$(KIND).world.o -o $@

# It is generated, and has functions that nobody calls: it is not held to the warnings.
$(BUILD)/$(KIND).bindings.o: $(BINDINGS)/plugin.c $(BINDINGS)/plugin.h
	mkdir -p $(BUILD)
	$(ZIG) cc -target wasm32-wasi -Os -w -c $< -o $@

# The object that says what the module imports and exports. It is kept as text.
$(BUILD)/$(KIND).world.o: $(BINDINGS)/plugin_component_type.b64
	mkdir -p $(BUILD)
	python3 -c 'import base64, sys; sys.stdout.buffer.write(base64.b64decode(sys.stdin.read()))' < $< > $@

test: $(BUILD)/$(NAME).test
	$<

$(BUILD)/$(NAME).test: test.c $(COMMON) $(TESTING) $(HEADERS)
	mkdir -p $(BUILD)
	$(ZIG) cc -g -fsanitize=undefined $(FLAGS) test.c $(COMMON) $(TESTING) -o $@

clean:
	rm -rf $(BUILD)

.PHONY: module component test clean
