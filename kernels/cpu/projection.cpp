// Keys and values from projected tables (docs/projection.md): gathers and sums by id, each in one pass over
// the rows. A row is rotated and scaled while it is in the L1 cache.
#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/rotate.h"
#include "kernels/cpu/row.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/segment_sum.h"
#include "kernels/projection.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr double kEpsilon = 1e-5;

struct RowTag;
struct PartTag;

/// sum = sum of the table rows that row r refers to.
template <typename T>
void sum_row(const TableRows& terms, int64_t columns, int64_t r, Row<T>& sum) {
  for (int t = 0; t < terms.tables; ++t) {
    const ConstRow<T> entry(
        static_cast<const T*>(terms.table[t]) + terms.ids[t][r * terms.id_stride[t]] * columns, columns);
    if (t == 0) {
      sum = entry;
    } else {
      sum += entry;
    }
  }
}

template <typename T>
void rotate(const Rotation& how, int64_t r, int direction, T* row) {
  if (how.bands == 0) return;
  rotate_row(row, how.heads, how.head_dim, how.bands, how.positions[r], how.cosine, how.sine, direction);
}

template <typename T>
void gather(const ProjectedRows& k) {
  const T* rstd = static_cast<const T*>(k.rstd);
  const T* offset = static_cast<const T*>(k.offset);
  parallel_for(k.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      Row<T> out(static_cast<T*>(k.out) + r * k.columns, k.columns);
      sum_row(k.terms, k.columns, r, out);
      if (rstd != nullptr) out *= rstd[r];
      if (offset != nullptr) out += ConstRow<T>(offset, k.columns);
      rotate(k.rotation, r, 1, out.data());
    }
  });
}

template <typename T>
void gather_backward(const ProjectedRowsBackward& k) {
  const T* d_out = static_cast<const T*>(k.d_out);
  const T* rstd = static_cast<const T*>(k.rstd);
  const auto add = [&](int64_t r, Row<T>& sum) {
    const ConstRow<T> row(d_out + r * k.columns, k.columns);
    const T factor = rstd == nullptr ? T(1) : rstd[r];
    if (k.rotation.bands == 0) {
      sum += factor * row;
      return;
    }
    Row<T> rotated(scratch<RowTag, T>(static_cast<size_t>(k.columns)), k.columns);
    rotated = row;
    rotate(k.rotation, r, -1, rotated.data());
    sum += factor * rotated;
  };
  sum_segments<T>({k.rows, k.table_rows, k.ids, k.id_stride, k.scratch}, k.columns,
                  static_cast<T*>(k.d_table), k.accumulate, add);
}

template <typename T>
void scale_backward(const ProjectedScaleBackward& k) {
  const T* d_out = static_cast<const T*>(k.d_out);
  T* d_rstd = static_cast<T*>(k.d_rstd);
  T* parts = scratch<PartTag, T>(static_cast<size_t>(kReductionParts * k.columns));
  parallel_for(kReductionParts, 1, [&](int64_t begin, int64_t end) {
    Row<T> sum(scratch<RowTag, T>(static_cast<size_t>(k.columns)), k.columns);
    for (int64_t part = begin; part < end; ++part) {
      Row<T> d_offset(parts + part * k.columns, k.columns);
      d_offset.setZero();
      for (int64_t r = k.rows * part / kReductionParts; r < k.rows * (part + 1) / kReductionParts; ++r) {
        const ConstRow<T> row(d_out + r * k.columns, k.columns);
        sum_row(k.terms, k.columns, r, sum);
        const T dot = (row * sum).sum();
        d_rstd[r] = dot + (k.accumulate_rstd ? d_rstd[r] : T(0));
        if (k.d_offset != nullptr) d_offset += row;
      }
    }
  });
  if (k.d_offset == nullptr) return;
  Row<T> total(static_cast<T*>(k.d_offset), k.columns);
  if (!k.accumulate_offset) total.setZero();
  for (int64_t part = 0; part < kReductionParts; ++part)
    total += ConstRow<T>(parts + part * k.columns, k.columns);
}

template <typename T>
void rstd_of_sums(const SumRstd& k) {
  parallel_for(k.rows, 64, [&](int64_t begin, int64_t end) {
    Row<T> sum(scratch<RowTag, T>(static_cast<size_t>(k.columns)), k.columns);
    for (int64_t r = begin; r < end; ++r) {
      sum_row(k.terms, k.columns, r, sum);
      static_cast<T*>(k.rstd)[r] = T(1) / std::sqrt(sum.square().mean() + T(kEpsilon));
    }
  });
}

template <typename T>
void rstd_backward(const SumRstdBackward& k) {
  const SumRstd& f = k.forward;
  const T* rstd = static_cast<const T*>(f.rstd);
  const T* d_rstd = static_cast<const T*>(k.d_rstd);
  const auto add = [&](int64_t r, Row<T>& total) {
    Row<T> sum(scratch<RowTag, T>(static_cast<size_t>(f.columns)), f.columns);
    sum_row(f.terms, f.columns, r, sum);
    total -= rstd[r] * rstd[r] * rstd[r] * d_rstd[r] / static_cast<T>(f.columns) * sum;
  };
  sum_segments<T>({f.rows, k.table_rows, f.terms.ids[k.table], f.terms.id_stride[k.table], k.scratch},
                  f.columns, static_cast<T*>(k.d_table), k.accumulate, add);
}

template <typename T>
void center(const CenterRows& k) {
  parallel_for(k.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const ConstRow<T> x(static_cast<const T*>(k.x) + r * k.columns, k.columns);
      Row<T> y(static_cast<T*>(k.y) + r * k.columns, k.columns);
      const T mean = x.mean();
      if (k.accumulate) {
        y += x - mean;
      } else {
        y = x - mean;
      }
    }
  });
}

template <typename T>
void scale(const ScaleColumns& k) {
  const ConstRow<T> factors(static_cast<const T*>(k.scale), k.columns);
  parallel_for(k.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      Row<T>(static_cast<T*>(k.y) + r * k.columns, k.columns) =
          ConstRow<T>(static_cast<const T*>(k.x) + r * k.columns, k.columns) * factors;
  });
}

template <typename T>
void scale_columns_backward_of(const ScaleColumnsBackward& k) {
  const ConstRow<T> factors(static_cast<const T*>(k.scale), k.columns);
  Row<T> d_scale(static_cast<T*>(k.d_scale), k.d_scale == nullptr ? 0 : k.columns);
  if (!k.accumulate_scale) d_scale.setZero();
  for (int64_t r = 0; r < k.rows; ++r) {
    const ConstRow<T> d_y(static_cast<const T*>(k.d_y) + r * k.columns, k.columns);
    if (k.d_scale != nullptr)
      d_scale += d_y * ConstRow<T>(static_cast<const T*>(k.x) + r * k.columns, k.columns);
    if (k.d_x == nullptr) continue;
    Row<T> d_x(static_cast<T*>(k.d_x) + r * k.columns, k.columns);
    if (k.accumulate_x) {
      d_x += d_y * factors;
    } else {
      d_x = d_y * factors;
    }
  }
}

}  // namespace

void projected_rows(const ProjectedRows& k) {
  with_type(k.type, [&]<typename T>() { gather<T>(k); });
}
void projected_rows_backward(const ProjectedRowsBackward& k) {
  with_type(k.type, [&]<typename T>() { gather_backward<T>(k); });
}
void projected_scale_backward(const ProjectedScaleBackward& k) {
  with_type(k.type, [&]<typename T>() { scale_backward<T>(k); });
}
void sum_rstd(const SumRstd& k) {
  with_type(k.type, [&]<typename T>() { rstd_of_sums<T>(k); });
}
void sum_rstd_backward(const SumRstdBackward& k) {
  with_type(k.forward.type, [&]<typename T>() { rstd_backward<T>(k); });
}
void center_rows(const CenterRows& k) {
  with_type(k.type, [&]<typename T>() { center<T>(k); });
}
void scale_columns(const ScaleColumns& k) {
  with_type(k.type, [&]<typename T>() { scale<T>(k); });
}
void scale_columns_backward(const ScaleColumnsBackward& k) {
  with_type(k.type, [&]<typename T>() { scale_columns_backward_of<T>(k); });
}

}  // namespace perceiver::kernels::cpu
