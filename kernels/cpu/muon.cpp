// Muon's elementwise parts.
#include "kernels/muon.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/cpu/parallel.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements

template <typename T>
void momentum(const MuonMomentum& k) {
  const T scale = static_cast<T>(k.scalars->gradient_scale), decay = static_cast<T>(k.decay);
  const T* const gradients = static_cast<const T*>(k.gradients);
  T *const buffer = static_cast<T*>(k.momentum), *const update = static_cast<T*>(k.update);
  parallel_for(k.elements, kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T g = scale * gradients[i];
      buffer[i] = decay * buffer[i] + g;
      update[i] = g + decay * buffer[i];
    }
  });
}

template <typename T>
void normalize(const MuonNormalize& k) {
  const T factor = static_cast<T>(1 / (std::sqrt(*k.sum_of_squares) + kMuonEpsilon));
  const T* const x = static_cast<const T*>(k.x);
  T* const y = static_cast<T*>(k.y);
  parallel_for(k.elements, kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = factor * x[i];
  });
}

template <typename T>
void polynomial(const MuonPolynomial& k) {
  const T a = static_cast<T>(kMuonA), b = static_cast<T>(kMuonB), c = static_cast<T>(kMuonC);
  const T* const matrix = static_cast<const T*>(k.matrix);
  T* const square = static_cast<T*>(k.square);
  const int64_t size = k.size;
  parallel_for(k.count * size, std::max<int64_t>(1, kGrain / size), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * size; i < end * size; ++i) square[i] = b * matrix[i] + c * square[i];
    for (int64_t row = begin; row < end; ++row) square[row * size + row % size] += a;
  });
}

template <typename T>
void step(const MuonStep& k) {
  const double rate = k.scalars->learning_rate;
  const T keep = static_cast<T>(1 - rate * k.weight_decay), scale = static_cast<T>(rate * k.scale);
  const T* const update = static_cast<const T*>(k.update);
  T* const p = static_cast<T*>(k.parameters);
  parallel_for(k.elements, kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) p[i] = keep * p[i] - scale * update[i];
  });
}

}  // namespace

void muon_momentum(const MuonMomentum& k) {
  if (!k.scalars->finite) return;
  with_type(k.type, [&]<typename T>() { momentum<T>(k); });
}

void muon_normalize(const MuonNormalize& k) {
  PERCEIVER_ASSERT(k.from == k.to);  // on the CPU, passes compute in the parameters' type
  with_type(k.from, [&]<typename T>() { normalize<T>(k); });
}

void muon_polynomial(const MuonPolynomial& k) {
  with_type(k.type, [&]<typename T>() { polynomial<T>(k); });
}

void muon_step(const MuonStep& k) {
  PERCEIVER_ASSERT(k.type == k.update_type);
  if (!k.scalars->finite) return;
  with_type(k.type, [&]<typename T>() { step<T>(k); });
}

}  // namespace perceiver::kernels::cpu
