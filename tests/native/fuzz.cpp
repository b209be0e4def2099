// Random convolutions against a plain loop, without Python, so that sanitizers see all of it.
//
//   fuzz SECONDS [SEED] [THREADS]
//
// prints the seed of a failure, which repeats it, and returns 1.  Instruction sets take turns.
// With THREADS > 1 several callers share the pool.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "direct.h"
#include "dispatch.h"
#include "passes.h"
#include "sums.h"
#include "window_sums.h"

using namespace xconv;

namespace {

using Complex = std::complex<double>;
using Random = std::mt19937_64;

ptrdiff_t pick(Random& random, std::initializer_list<ptrdiff_t> of) {
  return of.begin()[random() % of.size()];
}

// An array of the given sizes with its axes in any order, some reversed or with gaps, that fills
// its memory to the last byte: reading or writing past it is seen.
struct Memory {
  std::vector<char> bytes;
  std::vector<ptrdiff_t> strides;
  char* first = nullptr;

  Memory(Random& random, const std::vector<ptrdiff_t>& sizes, ptrdiff_t item)
      : strides(sizes.size()) {
    std::vector<size_t> order(sizes.size());
    for (size_t a = 0; a < order.size(); ++a) order[a] = a;
    std::shuffle(order.begin(), order.end(), random);
    ptrdiff_t step = item * pick(random, {1, 1, 1, 2}), offset = 0;
    ptrdiff_t total = item;
    for (const size_t a : order) {
      const bool reversed = random() % 5 == 0;
      strides[a] = reversed ? -step : step;
      if (reversed) offset += std::max(sizes[a] - 1, ptrdiff_t(0)) * step;
      total += std::max(sizes[a] - 1, ptrdiff_t(0)) * step;
      step *= std::max(sizes[a], ptrdiff_t(1)) * pick(random, {1, 1, 1, 2});
    }
    bytes.resize(size_t(total));
    first = bytes.data() + offset;
  }

  char* at(const std::vector<ptrdiff_t>& index) const {
    char* element = first;
    for (size_t a = 0; a < index.size(); ++a) element += index[a] * strides[a];
    return element;
  }
};

struct Walk {  // all indices of an array, the last axis fastest
  const std::vector<ptrdiff_t>& sizes;
  std::vector<ptrdiff_t> at;
  explicit Walk(const std::vector<ptrdiff_t>& s) : sizes(s), at(s.size(), 0) {}
  bool next() {
    for (size_t a = sizes.size(); a-- > 0;) {
      if (++at[a] < sizes[a]) return true;
      at[a] = 0;
    }
    return false;
  }
};

ptrdiff_t continued(ptrdiff_t i, ptrdiff_t n, Boundary boundary) {
  while (i < 0 || i >= n) {  // one reflection or turn at a time
    switch (boundary) {
      case Boundary::constant:
        return -1;
      case Boundary::nearest:
        i = i < 0 ? 0 : n - 1;
        break;
      case Boundary::wrap:
        i += i < 0 ? n : -n;
        break;
      case Boundary::reflect:
        i = i < 0 ? -1 - i : 2 * n - 1 - i;
        break;
      case Boundary::mirror:
        i = n == 1 ? 0 : i < 0 ? -i : 2 * n - 2 - i;
        break;
    }
  }
  return i;
}

// Values are small integers, so that every arithmetic but the 8-bit ones is exact, and those wrap.
template <class T>
void put(char* at, long value, long imaginary) {
  T v;
  if constexpr (std::is_same_v<T, std::complex<float>> || std::is_same_v<T, std::complex<double>>) {
    v = T(typename T::value_type(value), typename T::value_type(imaginary));
  } else {
    v = T(value);
  }
  std::memcpy(at, &v, sizeof v);
}

void put_value(Type type, char* at, long value, long imaginary) {
  static const uint16_t halves[4] = {0, 0x3c00, 0x4000, 0x4200};  // 0 to 3
  switch (type) {
    case Type::boolean:
      return put<uint8_t>(at, value != 0, 0);
    case Type::int8:
      return put<int8_t>(at, value, 0);
    case Type::uint8:
      return put<uint8_t>(at, value, 0);
    case Type::int16:
      return put<int16_t>(at, value, 0);
    case Type::uint16:
      return put<uint16_t>(at, value, 0);
    case Type::int32:
      return put<int32_t>(at, value, 0);
    case Type::uint32:
      return put<uint32_t>(at, value, 0);
    case Type::int64:
      return put<int64_t>(at, value, 0);
    case Type::uint64:
      return put<uint64_t>(at, value, 0);
    case Type::float16:
      return put<uint16_t>(at, halves[std::abs(value) & 3] | (value < 0 ? 0x8000 : 0), 0);
    case Type::float32:
      return put<float>(at, value, 0);
    case Type::float64:
      return put<double>(at, value, 0);
    case Type::complex64:
      return put<std::complex<float>>(at, value, imaginary);
    case Type::complex128:
      return put<std::complex<double>>(at, value, imaginary);
  }
}

bool is_complex(Type type) { return type == Type::complex64 || type == Type::complex128; }

// Small random values in all of an array; also in C order.
std::vector<Complex> filled(Random& random, const Memory& memory,
                            const std::vector<ptrdiff_t>& sizes, Type type) {
  std::vector<Complex> values;
  for (Walk walk(sizes);;) {
    const long re = long(random() % 4), im = is_complex(type) ? long(random() % 4) : 0;
    put_value(type, memory.at(walk.at), re, im);
    values.emplace_back(type == Type::boolean ? double(re != 0) : double(re), double(im));
    if (!walk.next()) return values;
  }
}

bool one(uint64_t seed, const Isa& isa) {
  Random random(seed);
  Spec spec;
  spec.y_type = Type(random() % types);
  do {
    spec.x_type = Type(random() % types);
  } while (!isa.load[int(spec.x_type)][int(number_of(spec.y_type))]);
  spec.kernel_is_real = is_complex(spec.y_type) && random() % 2;
  spec.spatial = int(pick(random, {1, 2, 2, 3}));
  spec.boundary = Boundary(random() % 5);
  const auto rank = size_t(spec.spatial);
  const int batch = int(pick(random, {0, 1, 1, 2}));

  std::vector<ptrdiff_t> x_sizes, y_sizes, w_sizes;
  for (int b = 0; b < batch; ++b) {
    x_sizes.push_back(pick(random, {1, 2, 3, 9, 35}) / (b + 1) + (b > 0));
  }
  y_sizes = x_sizes;
  w_sizes = {pick(random, {1, 1, 2}), pick(random, {1, 1, 2, 5}), pick(random, {1, 1, 3})};
  const bool many = random() % 4 == 0;  // enough of them to be the lanes of vectors
  if (many) w_sizes[random() % 2] = pick(random, {9, 19});
  x_sizes.insert(x_sizes.end(), {w_sizes[0], w_sizes[2]});
  y_sizes.insert(y_sizes.end(), {w_sizes[0], w_sizes[1]});
  const ptrdiff_t longest[] = {0, many ? 30 : 120, many ? 11 : 22, many ? 5 : 7};
  for (size_t s = 0; s < rank; ++s) {
    const ptrdiff_t n = 1 + ptrdiff_t(random() % uint64_t(longest[rank]));
    const ptrdiff_t k = 1 + ptrdiff_t(random() % (rank == 3 ? 3 : 7));
    const ptrdiff_t stride = pick(random, {1, 1, 1, 2, 3}),
                    dilation = pick(random, {1, 1, 1, 2, 4});
    const ptrdiff_t extent = (k - 1) * dilation + 1;
    const ptrdiff_t low = pick(random, {0, 0, extent / 2, extent - 1, n + 3});
    const ptrdiff_t high = std::max(pick(random, {0, 0, extent / 2, n}), extent - n - low);
    x_sizes.push_back(n);
    w_sizes.push_back(k);
    y_sizes.push_back((n + low + high - extent) / stride + 1);
    spec.stride.push_back(stride);
    spec.dilation.push_back(dilation);
    spec.pad.push_back(low);
  }
  spec.kernel = w_sizes;
  for (size_t a = 0; a < x_sizes.size(); ++a) {
    spec.x_axes.push_back({x_sizes[a], int(a), 1});
    spec.y_axes.push_back({y_sizes[a], int(a), 1});
  }
  const bool boolean = spec.y_type == Type::boolean;
  const long fill = boolean ? 1 : 2;
  Type fill_type = spec.y_type == Type::float16 ? Type::float32 : spec.y_type;
  put_value(fill_type, reinterpret_cast<char*>(spec.fill), fill, 0);

  Memory x(random, x_sizes, size_of(spec.x_type)), y(random, y_sizes, size_of(spec.y_type));
  const std::vector<Complex> x_values = filled(random, x, x_sizes, spec.x_type);
  Type w_type = fill_type;
  if (spec.kernel_is_real) w_type = w_type == Type::complex64 ? Type::float32 : Type::float64;
  ptrdiff_t w_count = 1;
  for (const ptrdiff_t n : w_sizes) w_count *= n;
  std::vector<char> w(size_t(w_count * size_of(w_type)));
  std::vector<Complex> w_values;
  for (ptrdiff_t i = 0; i < w_count; ++i) {
    const long re = long(random() % 4), im = is_complex(w_type) ? long(random() % 4) : 0;
    put_value(w_type, w.data() + i * size_of(w_type), re, im);
    w_values.emplace_back(boolean ? double(re != 0) : double(re), double(im));
  }

  const Direct direct(spec, isa);
  const int workers = int(pick(random, {1, 2, 3}));
  const size_t memory = direct.least(workers) + size_t(pick(random, {0, 0, 3000, 1 << 26}));
  std::vector<char> turned(size_t(direct.turned_elements() * size_of(w_type)));
  std::vector<ptrdiff_t> w_strides(w_sizes.size(), size_of(w_type));
  for (size_t a = w_sizes.size() - 1; a > 0; --a) w_strides[a - 1] = w_strides[a] * w_sizes[a];
  direct.turn({w.data(), w_strides.data()}, turned.data());
  const bool both = !turned.empty() && random() % 4 > 0;
  direct.run({x.first, x.strides.data()}, {w.data(), both ? turned.data() : nullptr},
             {y.first, y.strides.data()}, workers, memory, nullptr);

  const size_t lead = size_t(batch) + 2;
  const std::vector<ptrdiff_t> taps(w_sizes.begin() + 2, w_sizes.end());
  for (Walk out(y_sizes);;) {
    Complex sum = 0;
    for (Walk tap(taps);;) {
      std::vector<ptrdiff_t> at(out.at.begin(), out.at.begin() + batch + 1);
      at.push_back(tap.at[0]);
      bool outside = false;
      for (size_t s = 0; s < rank; ++s) {
        const ptrdiff_t i =
            out.at[lead + s] * spec.stride[s] + tap.at[1 + s] * spec.dilation[s] - spec.pad[s];
        at.push_back(continued(i, x_sizes[lead + s], spec.boundary));
        outside |= at.back() < 0;
      }
      ptrdiff_t xi = 0, wi = out.at[size_t(batch)] * w_sizes[1] + out.at[lead - 1];
      for (size_t a = 0; a < at.size(); ++a) xi = xi * x_sizes[a] + at[a];
      for (size_t a = 0; a < taps.size(); ++a) wi = wi * taps[a] + tap.at[a];
      Complex value = outside ? Complex(double(fill)) : x_values[size_t(xi)];
      if (boolean) value = value != 0.0;
      sum += value * w_values[size_t(wi)];
      if (!tap.next()) break;
    }
    char right[16] = {};
    if (spec.y_type == Type::float16) {  // through the core's own rounding of small integers
      const float f = float(sum.real());
      isa.store[int(Number::half)](&f, right, 2, 1);
    } else {
      put_value(spec.y_type, right, boolean ? sum != 0.0 : long(sum.real()), long(sum.imag()));
    }
    if (std::memcmp(right, y.at(out.at), size_t(size_of(spec.y_type))) != 0) {
      std::fprintf(stderr, "seed %llu on %s: %s of %s is wrong\n", (unsigned long long)seed,
                   isa.name, type_name(spec.y_type), type_name(spec.x_type));
      return false;
    }
    if (!out.next()) break;
  }
  return true;
}

size_t index(const std::vector<ptrdiff_t>& at, const std::vector<ptrdiff_t>& shape) {
  ptrdiff_t i = 0;
  for (size_t a = 0; a < shape.size(); ++a) i = i * shape[a] + at[a];
  return size_t(i);
}

// A spatial axis of a PositionSums, WindowSums or Passes::Problem.
template <class Sums>
void add_axis(Random& random, Sums& sums, ptrdiff_t most) {
  const auto n = ptrdiff_t(1 + random() % size_t(most)), k = ptrdiff_t(1 + random() % 3);
  const ptrdiff_t stride = pick(random, {1, 1, 2}), dilation = pick(random, {1, 1, 2});
  const ptrdiff_t extent = (k - 1) * dilation + 1, low = pick(random, {0, extent / 2, extent});
  const ptrdiff_t high = std::max(pick(random, {0, extent / 2}), extent - n - low);
  sums.x_shape.push_back(n);
  sums.y_shape.push_back((n + low + high - extent) / stride + 1);
  sums.taps.push_back(k);
  sums.stride.push_back(stride);
  sums.dilation.push_back(dilation);
  sums.pad.push_back(low);
}

// The gradient by a kernel, with values that make every sum exact.
bool sums_of(uint64_t seed, const Isa& isa) {
  Random random(seed);
  PositionSums sums;
  sums.type = Type(int(Type::float32) + int(random() % 4));
  do {
    sums.x_type = random() % 2 ? sums.type : Type(random() % types);
  } while (!isa.load[int(sums.x_type)][int(number_of(sums.type))]);
  sums.boundary = random() % 2 ? Boundary::constant : Boundary(random() % 5);
  const long fill = pick(random, {0, 2});
  put_value(sums.type, reinterpret_cast<char*>(sums.fill), fill, 0);
  const size_t rank = 1 + random() % 2;
  const bool many = random() % 3 == 0;
  sums.x_shape = {pick(random, {1, 2, 5}), pick(random, {1, many ? 19 : 2, many ? 32 : 1}),
                  pick(random, {1, 3})};
  sums.y_shape = {sums.x_shape[0], sums.x_shape[1], pick(random, {1, many ? 11 : 2})};
  sums.block = {pick(random, {1, 3}), pick(random, {1, 5, 16, 32})};
  std::vector<ptrdiff_t> total_shape = {sums.y_shape[1], sums.y_shape[2], sums.x_shape[2]};
  for (size_t s = 0; s < rank; ++s) {
    add_axis(random, sums, pick(random, {17, s + 1 == rank ? 75 : 17}));
    sums.block.push_back(pick(random, {1, 4, 30}));
    total_shape.push_back(sums.taps.back());
  }
  sums.shares = pick(random, {1, 3});
  sums.check();

  Memory x(random, sums.x_shape, size_of(sums.x_type)),
      gy(random, sums.y_shape, size_of(sums.type));
  const std::vector<Complex> x_values = filled(random, x, sums.x_shape, sums.x_type);
  const std::vector<Complex> gy_values = filled(random, gy, sums.y_shape, sums.type);
  const auto lanes = size_t(sums.lanes(isa));
  std::vector<size_t> order;  // of the total's axes in memory
  for (size_t a = 0; a < total_shape.size(); ++a) {
    if (a != lanes) order.push_back(a);
  }
  order.push_back(lanes);
  size_t count = 1;
  for (const ptrdiff_t n : total_shape) count *= size_t(n);
  const ptrdiff_t item = size_of(sums.type);
  std::vector<char> total(count * size_t(item));
  sums.run(isa, {x.first, x.strides.data()}, {gy.first, gy.strides.data()}, total.data(),
           int(pick(random, {1, 2, 3})), size_t(1) << 26, nullptr);

  for (Walk out(total_shape);;) {
    Complex sum = 0;
    std::vector<ptrdiff_t> positions(sums.y_shape);
    positions[1] = positions[2] = 1;
    for (Walk p(positions);;) {
      std::vector<ptrdiff_t> from = p.at, to = p.at;
      from[1] = to[1] = out.at[0];
      from[2] = out.at[2];
      to[2] = out.at[1];
      bool outside = false;
      for (size_t s = 0; s < rank; ++s) {
        const ptrdiff_t i =
            p.at[3 + s] * sums.stride[s] + out.at[3 + s] * sums.dilation[s] - sums.pad[s];
        from[3 + s] = continued(i, sums.x_shape[3 + s], sums.boundary);
        outside |= from[3 + s] < 0;
      }
      const Complex value = outside ? Complex(double(fill)) : x_values[index(from, sums.x_shape)];
      sum += value * std::conj(gy_values[index(to, sums.y_shape)]);
      if (!p.next()) break;
    }
    size_t at = 0;
    for (const size_t a : order) at = at * size_t(total_shape[a]) + size_t(out.at[a]);
    char right[16] = {};
    put_value(sums.type, right, long(sum.real()), long(sum.imag()));
    const char* found = total.data() + at * size_t(item);
    if (std::memcmp(right, found, size_t(item)) != 0) {
      std::fprintf(stderr, "seed %llu on %s: sums of %s and %s are wrong\n",
                   (unsigned long long)seed, isa.name, type_name(sums.x_type),
                   type_name(sums.type));
      return false;
    }
    if (!out.next()) return true;
  }
}

// The gradient by images, with values that make every sum exact.
bool windows_of(uint64_t seed, const Isa& isa) {
  Random random(seed);
  WindowSums sums;
  sums.type = random() % 2 ? Type::float32 : Type::float64;
  sums.x_shape = {pick(random, {1, 3}), pick(random, {1, 2}), pick(random, {1, 3, 5})};
  sums.y_shape = {sums.x_shape[0], sums.x_shape[1], pick(random, {1, 7, 19})};
  const size_t rank = 1 + random() % 3;
  for (size_t s = 0; s < rank; ++s) add_axis(random, sums, rank == 3 ? 7 : 19);
  sums.check();
  Memory gx(random, sums.x_shape, size_of(sums.type)), gy(random, sums.y_shape, size_of(sums.type));
  const std::vector<Complex> gy_values = filled(random, gy, sums.y_shape, sums.type);
  std::vector<ptrdiff_t> w_shape = {sums.y_shape[1]};
  w_shape.insert(w_shape.end(), sums.taps.begin(), sums.taps.end());
  w_shape.insert(w_shape.end(), {sums.x_shape[2], sums.y_shape[2]});
  size_t count = 1;
  for (const ptrdiff_t n : w_shape) count *= size_t(n);
  const auto item = size_t(size_of(sums.type));
  std::vector<char> w(count * item);
  std::vector<double> w_values(count);
  for (size_t i = 0; i < count; ++i) {
    w_values[i] = double(long(random() % 7) - 3);
    put_value(sums.type, w.data() + i * item, long(w_values[i]), 0);
  }
  const int workers = int(pick(random, {1, 2, 3}));
  try {
    sums.run(isa, {gx.first, gx.strides.data()}, {gy.first, gy.strides.data()}, w.data(), workers,
             size_t(pick(random, {1 << 21, 1 << 26})), nullptr);
  } catch (const ScratchError&) {
    return true;
  }

  std::vector<double> right(1);
  for (const ptrdiff_t n : sums.x_shape) right.resize(right.size() * size_t(n));
  std::vector<ptrdiff_t> of_window(w_shape.begin() + 1, w_shape.end() - 1);  // taps, I
  for (Walk p(sums.y_shape);;) {
    for (Walk t(of_window);;) {
      std::vector<ptrdiff_t> at = {p.at[0], p.at[1], t.at[rank]}, tap = {p.at[1]};
      bool outside = false;
      for (size_t s = 0; s < rank; ++s) {
        at.push_back(p.at[3 + s] * sums.stride[s] + t.at[s] * sums.dilation[s] - sums.pad[s]);
        outside |= at.back() < 0 || at.back() >= sums.x_shape[3 + s];
      }
      tap.insert(tap.end(), t.at.begin(), t.at.end());
      tap.push_back(p.at[2]);
      if (!outside) {
        right[index(at, sums.x_shape)] +=
            gy_values[index(p.at, sums.y_shape)].real() * w_values[index(tap, w_shape)];
      }
      if (!t.next()) break;
    }
    if (!p.next()) break;
  }
  for (Walk q(sums.x_shape);;) {
    char wanted[16] = {};
    put_value(sums.type, wanted, long(right[index(q.at, sums.x_shape)]), 0);
    if (std::memcmp(wanted, gx.at(q.at), item) != 0) {
      std::fprintf(stderr, "seed %llu on %s: sums over windows of %s are wrong\n",
                   (unsigned long long)seed, isa.name, type_name(sums.type));
      return false;
    }
    if (!q.next()) return true;
  }
}

// Passes against the direct convolution with the products of their vectors, where all is exact.
bool passes_of(uint64_t seed, const Isa& isa) {
  Random random(seed);
  Passes::Problem p;
  p.type = Type(int(Type::float32) + int(random() % 4));
  do {
    p.x_type = random() % 2 ? p.type : Type(random() % types);
  } while (!isa.load[int(p.x_type)][int(number_of(p.type))]);
  p.boundary = Boundary(random() % 5);
  const size_t rank = 1 + random() % 3, batch = random() % 3;
  std::vector<ptrdiff_t> w_shape = {pick(random, {1, 1, 2, 19}), pick(random, {1, 1, 2}),
                                    pick(random, {1, 1, 3})};
  for (size_t b = 0; b < batch; ++b) p.x_shape.push_back(pick(random, {1, 3, 20}));
  p.x_shape.push_back(w_shape[0]);
  p.y_shape = p.x_shape;
  p.x_shape.push_back(w_shape[2]);
  p.y_shape.push_back(w_shape[1]);
  std::vector<ptrdiff_t> block;
  for (const ptrdiff_t n : p.y_shape)
    block.push_back(std::max(n / pick(random, {1, 1, 3}), ptrdiff_t(1)));
  for (size_t s = 0; s < rank; ++s) {
    add_axis(random, p, rank == 1 ? 120 : rank == 2 ? 30 : 7);
    w_shape.push_back(p.taps.back());
  }
  block.back() = 1 + ptrdiff_t(random() % 20);
  const ptrdiff_t item = size_of(p.type);
  Memory x(random, p.x_shape, size_of(p.x_type)), y(random, p.y_shape, item);
  Memory right(random, p.y_shape, item);
  filled(random, x, p.x_shape, p.x_type);

  // An element that is infinite, in some: its image is convolved directly, as products with the
  // zeros of a vector would be NaN where another term's are not.
  if (p.x_type == p.type && random() % 4 == 0) {
    std::vector<ptrdiff_t> at;
    for (const ptrdiff_t n : p.x_shape) at.push_back(ptrdiff_t(random() % size_t(n)));
    const bool wide = p.type == Type::float64 || p.type == Type::complex128;
    const double infinite = HUGE_VAL;
    const float infinite_float = HUGE_VALF;
    if (wide) std::memcpy(x.at(at), &infinite, sizeof infinite);
    if (!wide) std::memcpy(x.at(at), &infinite_float, sizeof infinite_float);
  }

  Passes::Kernel kernel;
  kernel.terms = pick(random, {1, 1, 2});
  kernel.magnitude = pick(random, {1, 1, 1000});
  if (random() % 4 == 0) kernel.magnitude = 1e300;  // all images directly
  std::vector<std::vector<char>> vectors(rank);
  std::vector<std::vector<Complex>> values(rank);
  const ptrdiff_t kernels = w_shape[0] * w_shape[1] * w_shape[2];
  for (size_t s = 0; s < rank; ++s) {
    vectors[s].resize(size_t(kernel.terms * kernels * p.taps[s] * item));
    for (size_t at = 0; at < vectors[s].size(); at += size_t(item)) {
      const long re = long(random() % 3), im = is_complex(p.type) ? long(random() % 2) : 0;
      put_value(p.type, vectors[s].data() + at, re, im);
      values[s].emplace_back(double(re), double(im));
    }
    kernel.vectors.push_back(vectors[s].data());
  }
  std::vector<char> weights;
  for (Walk at(w_shape);;) {
    const ptrdiff_t which = (at.at[0] * w_shape[1] + at.at[1]) * w_shape[2] + at.at[2];
    Complex sum = 0;
    for (ptrdiff_t r = 0; r < kernel.terms; ++r) {
      Complex product = 1;
      for (size_t s = 0; s < rank; ++s)
        product *= values[s][size_t((r * kernels + which) * p.taps[s] + at.at[3 + s])];
      sum += product;
    }
    weights.resize(weights.size() + size_t(item));
    put_value(p.type, &weights[weights.size() - size_t(item)], long(sum.real()), long(sum.imag()));
    if (!at.next()) break;
  }
  kernel.weights = weights.data();

  Spec spec;
  spec.x_type = p.x_type;
  spec.y_type = p.type;
  spec.spatial = int(rank);
  for (size_t a = 0; a < p.x_shape.size(); ++a) {
    spec.x_axes.push_back({p.x_shape[a], int(a), 1});
    spec.y_axes.push_back({p.y_shape[a], int(a), 1});
  }
  spec.kernel = w_shape;
  spec.stride = p.stride;
  spec.dilation = p.dilation;
  spec.pad = p.pad;
  spec.boundary = p.boundary;
  const Direct direct(spec, isa);
  const Array from{x.first, x.strides.data()};
  direct.run(from, {weights.data()}, {right.first, right.strides.data()}, 1, size_t(1) << 26,
             nullptr);
  const Passes passes(p, isa);
  passes.run(kernel, from, {y.first, y.strides.data()}, block, int(pick(random, {1, 2, 3})),
             passes.least() + size_t(pick(random, {0, 1 << 20})), nullptr);
  for (Walk at(p.y_shape);;) {
    double a[2] = {}, b[2] = {};
    const int number = int(is_complex(p.type) ? Number::complex128 : Number::float64);
    isa.load[int(p.type)][number](y.at(at.at), 0, a, 1);
    isa.load[int(p.type)][number](right.at(at.at), 0, b, 1);
    for (int part = 0; part < 2; ++part) {
      if (a[part] == b[part] || (a[part] != a[part] && b[part] != b[part])) continue;
      std::fprintf(stderr, "seed %llu on %s: passes of %s over %s are wrong\n",
                   (unsigned long long)seed, isa.name, type_name(p.type), type_name(p.x_type));
      return false;
    }
    if (!at.next()) return true;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const int threads = argc > 3 ? std::atoi(argv[3]) : 1;
  std::atomic<uint64_t> next{seed};
  std::atomic<bool> failed{false};
  const auto start = std::chrono::steady_clock::now();
  auto work = [&] {
    do {
      const uint64_t n = next++;
      for (const Isa* isa : available_isas()) {
        if (!one(n, *isa) || !sums_of(n, *isa) || !windows_of(n, *isa) || !passes_of(n, *isa))
          failed = true;
      }
    } while (!failed &&
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
                 seconds);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  std::printf("%llu problems on %zu instruction sets: %s\n", (unsigned long long)(next - seed),
              available_isas().size(), failed ? "failed" : "all right");
  return failed;
}
