#pragma once

#include "sums.h"

namespace xconv {

// A block of PositionSums of few kernels without a copy of either array: the lanes are groups, or
// positions next to each other, where these are contiguous in both.
//
// Adds to `total`, whose elements (G, O, I, taps...) are `steps` bytes apart, the sums over a block
// of (b, G, positions...).  Returns false where it cannot, with nothing done; that depends on the
// block alone.
bool add_lane_sums(const PositionSums& sums, const Isa& isa, Array x, Array gy,
                   const PositionSums::Sizes& from, const PositionSums::Sizes& size, char* total,
                   const PositionSums::Sizes& steps);

}  // namespace xconv
