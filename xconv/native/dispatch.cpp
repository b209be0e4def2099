#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace xconv {
namespace {

#if defined(__x86_64__)
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// __builtin_cpu_supports also asks whether the operating system saves the registers.
bool runs(const Isa* isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (isa == &isa_avx2) return avx2;
  if (isa == &isa_avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return isa == &isa_baseline;
}

std::string names(const std::vector<const Isa*>& isas) {
  std::string text;
  for (const Isa* isa : isas) text += (text.empty() ? "" : ", ") + std::string(isa->name);
  return text;
}

const Isa& choose() {
  const char* wanted = std::getenv("XCONV_ISA");
  if (!wanted || !*wanted) return *available_isas().front();
  for (const Isa* isa : available_isas()) {
    if (isa->name == std::string(wanted)) return *isa;
  }
  throw std::runtime_error("XCONV_ISA is \"" + std::string(wanted) +
                           "\", but this machine can run " + names(available_isas()) +
                           " (compiled in: " + names(compiled_isas()) + "); unset it or name one");
}

}  // namespace

const std::vector<const Isa*>& compiled_isas() {
#if defined(__x86_64__)
  static const std::vector<const Isa*> all{&isa_avx512, &isa_avx2, &isa_baseline};
#else
  static const std::vector<const Isa*> all{&isa_baseline};
#endif
  return all;
}

const std::vector<const Isa*>& available_isas() {
  static const std::vector<const Isa*> available = [] {
    std::vector<const Isa*> list;
    for (const Isa* isa : compiled_isas()) {
      if (runs(isa)) list.push_back(isa);
    }
    return list;
  }();
  return available;
}

const Isa& chosen_isa() {
  static const Isa& isa = choose();
  return isa;
}

const char* number_name(Number number) {
  static const char* const names[numbers] = {"float32", "float64", "complex64", "complex128",
                                             "uint8",   "uint16",  "uint32",    "uint64",
                                             "bool",    "float16"};
  return names[int(number)];
}

const char* type_name(Type type) {
  static const char* const names[types] = {
      "bool",  "int8",   "uint8",   "int16",   "uint16",  "int32",     "uint32",
      "int64", "uint64", "float16", "float32", "float64", "complex64", "complex128"};
  return names[int(type)];
}

std::vector<KernelEntry> kernel_table(const Isa& isa) {
  static const char* const op_names[ops] = {"rows",     "bank",  "plain", "layer",
                                            "channels", "slide", "line",  "roll"};
  std::vector<KernelEntry> table;
  for (int a = 0; a < arithmetics; ++a) {
    for (int op = 0; op < ops; ++op) {
      for (int rows = 1; rows <= max_rows; ++rows) {
        const int vectors = isa.widths[a][op][rows - 1];
        if (vectors == 0) continue;
        const char* dtype = number_name(Number(a));
        table.push_back({std::string(op_names[op]) + "_" + dtype + "_" + std::to_string(rows) +
                             "x" + std::to_string(vectors) + "_" + isa.name,
                         op_names[op], dtype, rows, vectors, isa.name});
      }
    }
  }
  return table;
}

}  // namespace xconv
