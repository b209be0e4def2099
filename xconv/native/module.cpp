// The Python module xconv._native: converts arguments, releases the GIL, calls the core.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "direct.h"
#include "dispatch.h"
#include "passes.h"
#include "pool.h"
#include "sums.h"
#include "window_sums.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace xconv {
namespace {

using AxisTuple = std::tuple<ptrdiff_t, int, ptrdiff_t>;
using Sizes = std::vector<ptrdiff_t>;

Type parse_type(const std::string& name) {
  for (int t = 0; t < types; ++t) {
    if (name == type_name(Type(t))) return Type(t);
  }
  throw nb::value_error(("dtype \"" + name + "\" has no compiled kernel").c_str());
}

// The element type of a buffer in native byte order, or -1.
int parse_format(const char* format, ptrdiff_t size) {
  if (!format) return int(Type::uint8);
  if (*format == '@' || *format == '=' ||
      *format == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>')) {
    ++format;
  }
  const bool complex = *format == 'Z';
  if (complex) ++format;
  if (format[0] == 0 || format[1] != 0) return -1;
  if (complex)
    return *format == 'f' ? int(Type::complex64) : *format == 'd' ? int(Type::complex128) : -1;
  switch (*format) {
    case '?':
      return int(Type::boolean);
    case 'e':
      return int(Type::float16);
    case 'f':
      return int(Type::float32);
    case 'd':
      return int(Type::float64);
  }
  const bool is_signed = std::strchr("bhilq", *format), is_unsigned = std::strchr("BHILQ", *format);
  if (!is_signed && !is_unsigned) return -1;
  const int log = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
  return int(Type::int8) + 2 * log + is_unsigned;
}

// A view of an array's memory, given back at the end of the scope.
class Buffer {
 public:
  Buffer(nb::handle array, const char* name, int flags) {
    if (PyObject_GetBuffer(array.ptr(), &view_, flags | PyBUF_FORMAT) != 0)
      throw nb::python_error();
    held_ = true;
    name_ = name;
  }
  ~Buffer() {
    if (held_) PyBuffer_Release(&view_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void check_type(Type wanted) const {
    if (parse_format(view_.format, view_.itemsize) == int(wanted)) return;
    throw nb::type_error((std::string(name_) + " has the buffer format \"" +
                          (view_.format ? view_.format : "B") + "\", expected " +
                          type_name(wanted) + " in native byte order")
                             .c_str());
  }

  // Axes behind those of `wanted` must have length 1.
  void check_shape(const Sizes& wanted) const {
    bool fits = view_.ndim >= int(wanted.size());
    for (int a = 0; a < view_.ndim && fits; ++a) {
      fits = view_.shape[a] == (size_t(a) < wanted.size() ? wanted[size_t(a)] : 1);
    }
    if (fits) return;
    auto text = [](const ptrdiff_t* sizes, size_t n) {
      std::string s = "(";
      for (size_t a = 0; a < n; ++a)
        s += std::to_string(sizes[a]) + (a + 1 < n || n == 1 ? "," : "");
      return s + ")";
    };
    throw nb::value_error((std::string(name_) + " has the shape " +
                           text(view_.shape, size_t(view_.ndim)) + ", expected " +
                           text(wanted.data(), wanted.size()))
                              .c_str());
  }

  Sizes shape() const { return Sizes(view_.shape, view_.shape + view_.ndim); }
  Array array() const { return {static_cast<char*>(view_.buf), view_.strides}; }
  const void* data() const { return view_.buf; }

 private:
  Py_buffer view_;
  const char* name_;
  bool held_ = false;
};

// One accumulator element that holds cval, which the caller knows to fit.
void set_fill(unsigned char* fill, Type y_type, nb::handle cval) {
  const Number number = number_of(y_type);
  const Isa& isa = chosen_isa();
  auto put = [&](Type type, const void* value) {
    isa.load[int(type)][int(number)](value, 0, fill, 1);
  };
  if (number == Number::boolean) {
    const int truth = PyObject_IsTrue(cval.ptr());
    if (truth < 0) throw nb::python_error();
    fill[0] = (unsigned char)truth;
  } else if (int(number) >= int(Number::uint8) && int(number) <= int(Number::uint64)) {
    const nb::object integer = nb::steal(PyNumber_Long(cval.ptr()));
    if (!integer.is_valid()) throw nb::python_error();
    const unsigned long long value = PyLong_AsUnsignedLongLongMask(integer.ptr());
    if (PyErr_Occurred()) throw nb::python_error();
    const uint64_t bits = value;
    put(Type::uint64, &bits);
  } else {
    const Py_complex value = PyComplex_AsCComplex(cval.ptr());
    if (PyErr_Occurred()) throw nb::python_error();
    const double parts[2] = {value.real, value.imag};
    put(number == Number::complex64 || number == Number::complex128 ? Type::complex128
                                                                    : Type::float64,
        parts);
  }
}

std::vector<Axis> parse_axes(const std::vector<AxisTuple>& tuples) {
  std::vector<Axis> axes;
  for (const auto& [size, of, step] : tuples) axes.push_back({size, of, step});
  return axes;
}

Boundary parse_boundary(int boundary) {
  if (boundary < 0 || boundary > int(Boundary::wrap)) {
    throw nb::value_error("boundary must be 0 to 4: constant, reflect, mirror, nearest, wrap");
  }
  return Boundary(boundary);
}

void construct(Direct* self, const std::string& x_dtype, const std::string& dtype,
               const std::vector<AxisTuple>& x_axes, const std::vector<AxisTuple>& y_axes,
               int nspatial, const Sizes& kernel_shape, const Sizes& stride, const Sizes& dilation,
               const Sizes& pad_lo, int boundary, nb::object cval, bool kernel_is_real) {
  Spec spec;
  spec.x_type = parse_type(x_dtype);
  spec.y_type = parse_type(dtype);
  spec.kernel_is_real = kernel_is_real;
  spec.x_axes = parse_axes(x_axes);
  spec.y_axes = parse_axes(y_axes);
  spec.spatial = nspatial;
  spec.kernel = kernel_shape;
  spec.stride = stride;
  spec.dilation = dilation;
  spec.pad = pad_lo;
  spec.boundary = parse_boundary(boundary);
  set_fill(spec.fill, spec.y_type, cval);
  new (self) Direct(std::move(spec), chosen_isa());
}

// The type of the weights: the accumulator's, or its real counterpart.
Type weight_type(const Direct& direct) {
  Type type = direct.spec.y_type;
  if (type == Type::float16) type = Type::float32;
  if (direct.spec.kernel_is_real) type = type == Type::complex64 ? Type::float32 : Type::float64;
  return type;
}

void turn(const Direct& direct, nb::handle k, nb::handle turned) {
  const Buffer from(k, "the kernel", PyBUF_STRIDES);
  const Buffer to(turned, "turned", PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
  for (const Buffer* buffer : {&from, &to}) buffer->check_type(weight_type(direct));
  from.check_shape(direct.spec.kernel);
  to.check_shape({direct.turned_elements()});
  direct.turn(from.array(), to.array().data);
}

bool interrupted() {
  const nb::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

size_t bytes(ptrdiff_t max_memory) { return size_t(max_memory < 0 ? 0 : max_memory); }

// Runs `work`, which returns false where `interrupted` said so, without Python's lock.
template <class Work>
void without_lock(Work&& work) {
  bool completed;
  {
    const nb::gil_scoped_release released;
    completed = work();
  }
  if (!completed) throw nb::python_error();
}

void run(const Direct& direct, nb::handle x, nb::handle k, nb::handle out, int workers,
         ptrdiff_t max_memory, nb::handle turned) {
  const Buffer from(x, "x", PyBUF_STRIDES);
  const Buffer to(out, "out", PyBUF_STRIDES | PyBUF_WRITABLE);
  from.check_type(direct.spec.x_type);
  from.check_shape(direct.x_shape());
  to.check_type(direct.spec.y_type);
  to.check_shape(direct.y_shape());
  std::optional<Buffer> plain_weights, turned_weights;
  Weights weights = {};
  if (!k.is_none()) {
    plain_weights.emplace(k, "the kernel", PyBUF_C_CONTIGUOUS);
    plain_weights->check_type(weight_type(direct));
    plain_weights->check_shape(direct.spec.kernel);
    weights.plain = plain_weights->data();
  }
  if (!turned.is_none() && direct.turned() != Op::plain) {
    turned_weights.emplace(turned, "turned", PyBUF_C_CONTIGUOUS);
    turned_weights->check_type(weight_type(direct));
    turned_weights->check_shape({direct.turned_elements()});
    weights.turned = turned_weights->data();
  }
  if (!weights.plain && !weights.turned) throw nb::value_error("run needs a kernel");
  without_lock([&] {
    return direct.run(from.array(), weights, to.array(), workers, bytes(max_memory), interrupted);
  });
}

// The axis of (G, O, I, taps...) that `position_sums` wants innermost.
int position_lanes(const std::string& dtype, ptrdiff_t groups, ptrdiff_t outputs) {
  PositionSums sums;
  sums.type = parse_type(dtype);
  sums.y_shape = {1, groups, outputs};
  return sums.lanes(chosen_isa());
}

void position_sums(nb::handle x, nb::handle gy, nb::handle total, const std::string& x_dtype,
                   const std::string& dtype, const Sizes& taps, const Sizes& stride,
                   const Sizes& dilation, const Sizes& pad_lo, int boundary, nb::object cval,
                   const Sizes& block, ptrdiff_t shares, int workers, ptrdiff_t max_memory) {
  const Buffer from(x, "x", PyBUF_STRIDES), weights(gy, "gy", PyBUF_STRIDES);
  const Buffer to(total, "total", PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
  PositionSums sums;
  sums.x_type = parse_type(x_dtype);
  sums.type = parse_type(dtype);
  from.check_type(sums.x_type);
  weights.check_type(sums.type);
  to.check_type(sums.type);
  sums.x_shape = from.shape();
  sums.y_shape = weights.shape();
  sums.taps = taps;
  sums.stride = stride;
  sums.dilation = dilation;
  sums.pad = pad_lo;
  sums.block = block;
  sums.shares = shares;
  sums.boundary = parse_boundary(boundary);
  sums.check();
  set_fill(sums.fill, sums.type, cval);
  Sizes wanted = {sums.y_shape[1], sums.y_shape[2], sums.x_shape[2]};
  wanted.insert(wanted.end(), taps.begin(), taps.end());
  const auto lanes = wanted.begin() + sums.lanes(chosen_isa());
  std::rotate(lanes, lanes + 1, wanted.end());
  to.check_shape(wanted);
  without_lock([&] {
    return sums.run(chosen_isa(), from.array(), weights.array(), to.array().data, workers,
                    bytes(max_memory), interrupted);
  });
}

void window_sums(nb::handle gx, nb::handle gy, nb::handle weights, const std::string& dtype,
                 const Sizes& taps, const Sizes& stride, const Sizes& dilation, const Sizes& pad_lo,
                 int workers, ptrdiff_t max_memory) {
  const Buffer to(gx, "gx", PyBUF_STRIDES | PyBUF_WRITABLE), from(gy, "gy", PyBUF_STRIDES);
  const Buffer kernel(weights, "weights", PyBUF_C_CONTIGUOUS);
  WindowSums sums;
  sums.type = parse_type(dtype);
  for (const Buffer* buffer : {&to, &from, &kernel}) buffer->check_type(sums.type);
  sums.x_shape = to.shape();
  sums.y_shape = from.shape();
  sums.taps = taps;
  sums.stride = stride;
  sums.dilation = dilation;
  sums.pad = pad_lo;
  sums.check();
  Sizes wanted = {sums.y_shape[1]};
  wanted.insert(wanted.end(), taps.begin(), taps.end());
  wanted.insert(wanted.end(), {sums.x_shape[2], sums.y_shape[2]});
  kernel.check_shape(wanted);
  without_lock([&] {
    return sums.run(chosen_isa(), to.array(), from.array(), kernel.data(), workers,
                    bytes(max_memory), interrupted);
  });
}

void construct_passes(Passes* self, const std::string& x_dtype, const std::string& dtype,
                      const Sizes& x_shape, const Sizes& y_shape, const Sizes& taps,
                      const Sizes& stride, const Sizes& dilation, const Sizes& pad_lo,
                      int boundary) {
  new (self) Passes({parse_type(x_dtype), parse_type(dtype), x_shape, y_shape, taps, stride,
                     dilation, pad_lo, parse_boundary(boundary)},
                    chosen_isa());
}

// A block (batch..., G, rows), of sizes that fit the result's.
void check_block(const Passes& passes, const Sizes& block) {
  bool fits = block.size() == passes.lead + 1;
  for (const ptrdiff_t n : block) fits &= n >= 1;
  if (!fits) throw nb::value_error("block must have sizes of at least 1 for batch..., G and rows");
}

ptrdiff_t passes_bytes(const Passes& passes, const Sizes& block) {
  check_block(passes, block);
  return passes.bytes(block);
}

void run_passes(const Passes& passes, nb::handle x, nb::sequence vectors, nb::handle k,
                double magnitude, nb::handle out, const Sizes& block, int workers,
                ptrdiff_t max_memory) {
  const auto& p = passes.problem;
  const Buffer from(x, "x", PyBUF_STRIDES), weights(k, "the kernel", PyBUF_C_CONTIGUOUS);
  const Buffer to(out, "out", PyBUF_STRIDES | PyBUF_WRITABLE);
  from.check_type(p.x_type);
  from.check_shape(p.x_shape);
  to.check_type(p.type);
  to.check_shape(p.y_shape);
  weights.check_type(p.type);
  Sizes sizes = {p.x_shape[passes.lead - 1], p.y_shape[passes.lead], p.x_shape[passes.lead]};
  sizes.insert(sizes.end(), p.taps.begin(), p.taps.end());
  weights.check_shape(sizes);
  check_block(passes, block);
  std::deque<Buffer> buffers;
  Passes::Kernel kernel = {0, {}, static_cast<const char*>(weights.data()), magnitude};
  for (nb::handle vector : vectors) {
    const Buffer& buffer = buffers.emplace_back(vector, "a vector", PyBUF_C_CONTIGUOUS);
    buffer.check_type(p.type);
    const size_t axis = buffers.size() - 1;
    if (axis == p.taps.size()) break;
    if (axis == 0) kernel.terms = buffer.shape().empty() ? 0 : buffer.shape()[0];
    buffer.check_shape({kernel.terms, sizes[0], sizes[1], sizes[2], p.taps[axis]});
    kernel.vectors.push_back(static_cast<const char*>(buffer.data()));
  }
  if (buffers.size() != p.taps.size()) throw nb::value_error("there is a vector for each axis");
  without_lock([&] {
    return passes.run(kernel, from.array(), to.array(), block, workers, bytes(max_memory),
                      interrupted);
  });
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double fma_peak(const std::string& dtype, double seconds) {
  const Type type = parse_type(dtype);
  if (type != Type::float32 && type != Type::float64) {
    throw nb::value_error("fma_peak is known for float32 and float64");
  }
  const auto peak = chosen_isa().peak[type == Type::float64];
  const nb::gil_scoped_release released;
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto round = std::chrono::steady_clock::now();
    const double flops = peak(20000);
    best = std::max(best, flops / seconds_since(round));
  } while (seconds_since(start) < seconds);
  return best;
}

}  // namespace
}  // namespace xconv

NB_MODULE(_native, m) {
  using namespace xconv;
  m.doc() = "Compiled kernels of the direct convolution on CPUs.";

  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const ScratchError& error) {
      PyErr_SetString(PyExc_MemoryError, error.what());
    }
  });

  m.def("isa", [] { return chosen_isa().name; }, "The instruction set in use.");
  m.def(
      "isas",
      [] {
        nb::list names;
        for (const Isa* isa : available_isas()) names.append(isa->name);
        return names;
      },
      "The instruction sets that this machine can run, best first.");
  m.def(
      "kernels",
      [] {
        nb::list rows;
        for (const Isa* isa : available_isas()) {
          for (const KernelEntry& entry : kernel_table(*isa)) {
            nb::dict row;
            row["name"] = entry.name;
            row["op"] = entry.op;
            row["dtype"] = entry.dtype;
            row["rows"] = entry.rows;
            row["vectors"] = entry.vectors;
            row["isa"] = entry.isa;
            rows.append(row);
          }
        }
        return rows;
      },
      "The kernels that this machine can run, as dicts.");
  m.def("position_lanes", position_lanes, "dtype"_a, "groups"_a, "outputs"_a);
  m.def("position_sums", position_sums, "x"_a, "gy"_a, "total"_a, "x_dtype"_a, "dtype"_a, "taps"_a,
        "stride"_a, "dilation"_a, "pad_lo"_a, "boundary"_a, "cval"_a, "block"_a, "shares"_a,
        "workers"_a, "max_memory"_a);
  m.def("window_sums", window_sums, "gx"_a, "gy"_a, "weights"_a, "dtype"_a, "taps"_a, "stride"_a,
        "dilation"_a, "pad_lo"_a, "workers"_a, "max_memory"_a);
  m.def("vector_bytes", [] { return chosen_isa().vector_bytes; });
  m.def("cpu_count", cpu_count,
        "The CPUs that this process may use: affinity, control group, XCONV_NUM_THREADS.");
  m.def("fma_peak", fma_peak, "dtype"_a, "seconds"_a,
        "The best multiply-add rate of one thread's registers, in flop/s.");

  nb::class_<Direct>(m, "Direct", "A prepared direct convolution; see direct.h.")
      .def("__init__", construct, "x_dtype"_a, "dtype"_a, "x_axes"_a, "y_axes"_a, "nspatial"_a,
           "kernel_shape"_a, "stride"_a, "dilation"_a, "pad_lo"_a, "boundary"_a, "cval"_a,
           "kernel_is_real"_a = false)
      .def("run", run, "x"_a, "k"_a.none(), "out"_a, "workers"_a, "max_memory"_a,
           "turned"_a = nb::none())
      .def("turned_elements", &Direct::turned_elements)
      .def("turn", turn, "k"_a, "turned"_a)
      .def("scratch", &Direct::scratch, "workers"_a)
      .def("least", &Direct::least, "workers"_a = 1);

  nb::class_<Passes>(m, "Passes", "Prepared passes of kernels of low rank; see passes.h.")
      .def("__init__", construct_passes, "x_dtype"_a, "dtype"_a, "x_shape"_a, "y_shape"_a, "taps"_a,
           "stride"_a, "dilation"_a, "pad_lo"_a, "boundary"_a)
      .def("run", run_passes, "x"_a, "vectors"_a, "k"_a, "magnitude"_a, "out"_a, "block"_a,
           "workers"_a, "max_memory"_a)
      .def("bytes", passes_bytes, "block"_a)
      .def("least", &Passes::least);
}
