// Which instruction sets were compiled in, which of them this processor has, which one is used.
#pragma once

#include <string>
#include <vector>

#include "conv.h"

namespace xconv {

// All that were compiled in, best first.
const std::vector<const Isa*>& compiled_isas();

// Those that this processor can run, best first; never empty.
const std::vector<const Isa*>& available_isas();

// The one in use: the best available, or the one that the variable XCONV_ISA names.
// Throws std::runtime_error where it names one that is unknown or not available.
const Isa& chosen_isa();

const char* number_name(Number number);
const char* type_name(Type type);

struct KernelEntry {
  std::string name;  // <op>_<dtype>_<R>x<V>_<isa>
  const char* op;
  const char* dtype;
  int rows, vectors;
  const char* isa;
};

// One row per kernel of the instruction set.
std::vector<KernelEntry> kernel_table(const Isa& isa);

}  // namespace xconv
