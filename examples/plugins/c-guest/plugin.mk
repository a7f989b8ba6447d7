# How a plug-in in C is built and tested. A plug-in's Makefile sets NAME, KIND (filter or processor) and SOURCES, and includes
# this file. Variables that may be given to make: BUILD, the folder for what is made; ZIG, the compiler.
#
#   make        makes $(BUILD)/$(NAME).wasm
#   make test   compiles test.c for this machine, without a host, and runs it
#   make module makes the WebAssembly module that the component is made of
HELPER := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
BUILD = build
# Comes with `python3 -m pip install ziglang`: clang with a C library for WebAssembly.
ZIG = python3 -m ziglang
BINDINGS = $(HELPER)/bindings/$(KIND)
FLAGS = -std=c11 -Wall -Wextra -Werror -I$(HELPER) -I$(BINDINGS)
COMMON = $(SOURCES) $(addprefix $(HELPER)/,tailweir.c json.c $(KIND).c)
HEADERS = $(wildcard $(HELPER)/*.h) $(BINDINGS)/plugin.h

$(BUILD)/$(NAME).wasm: $(BUILD)/$(NAME).module.wasm
	wasm-tools component new $< -o $@

module: $(BUILD)/$(NAME).module.wasm

# What the bindings do not use is generated all the same, so they are not held to the warnings.
$(BUILD)/$(NAME).module.wasm: $(COMMON) $(HEADERS) $(BINDINGS)/plugin.c $(BINDINGS)/plugin_component_type.o
	mkdir -p $(BUILD)
	$(ZIG) cc -target wasm32-wasi -Os -w -c $(BINDINGS)/plugin.c -o $(BUILD)/$(NAME).bindings.o
	$(ZIG) cc -target wasm32-wasi -mexec-model=reactor -Os -s -Wl,-z,stack-size=65536 $(FLAGS) $(COMMON) \
	  $(BUILD)/$(NAME).bindings.o $(BINDINGS)/plugin_component_type.o -o $@

test: $(BUILD)/$(NAME).test
	$<

$(BUILD)/$(NAME).test: test.c $(COMMON) $(HELPER)/testing.c $(HEADERS)
	mkdir -p $(BUILD)
	$(ZIG) cc -g -fsanitize=undefined $(FLAGS) test.c $(COMMON) $(HELPER)/testing.c -o $@

clean:
	rm -rf $(BUILD)

.PHONY: module test clean
