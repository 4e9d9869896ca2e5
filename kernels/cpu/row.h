// Rows of matrices as Eigen arrays.
#pragma once

#include <Eigen/Core>

namespace perceiver::kernels::cpu {

template <typename T>
using Row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <typename T>
using ConstRow = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

}  // namespace perceiver::kernels::cpu
