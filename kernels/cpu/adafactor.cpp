// Adafactor (Shazeer and Stern 2018, "Adafactor: adaptive learning rates with sublinear memory cost",
// algorithms 4 and 5). Sums over a matrix have a fixed number of parts, each a run of rows, so that they
// round the same for any number of threads.
#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/optimizer.h"

namespace perceiver::kernels::cpu {
namespace {

template <typename T>
using Row = Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic>>;
template <typename T>
using ConstRow = Eigen::Map<const Eigen::Array<T, 1, Eigen::Dynamic>>;

constexpr double kEpsilon = 1e-30;        // added to squared gradients
constexpr double kDecayExponent = -0.8;   // second moments decay by 1 - update^this
constexpr double kClipThreshold = 1;      // of the update's root mean square
constexpr int64_t kPartElements = 16384;  // smaller matrices are one part

/// The update of one parameter. An unfactored one keeps a second moment for each element.
template <typename T>
class ParameterUpdate {
 public:
  ParameterUpdate(const Adafactor& k, const AdafactorParameter& parameter)
      : parameter_(parameter),
        values_(static_cast<T*>(k.parameters) + parameter.begin),
        gradients_(static_cast<const T*>(k.gradients) + parameter.begin),
        row_moment_(static_cast<T*>(k.moments) + parameter.row_moment),
        column_moment_(static_cast<T*>(k.moments) + parameter.column_moment),
        rate_(static_cast<T>(k.scalars->learning_rate)),
        scale_(static_cast<T>(k.scalars->gradient_scale)),
        decay_(static_cast<T>(1 - std::pow(k.scalars->update, kDecayExponent))),
        rest_(static_cast<T>(std::pow(k.scalars->update, kDecayExponent))) {
    const int64_t elements = parameter.rows * parameter.columns;
    parts_ = std::clamp<int64_t>(elements / kPartElements, 1, std::min(kReductionParts, parameter.rows));
  }

  void run() {
    if (parameter_.factored) {
      update_factored_moments();
    } else {
      update_full_moment();
    }
    const double mean_square = sum_of_updates() / static_cast<double>(parameter_.rows * parameter_.columns);
    const double clip = std::max(1.0, std::sqrt(mean_square) / kClipThreshold);
    apply(rate_ / static_cast<T>(clip));
  }

 private:
  /// Calls body(part, row) for every row, parts in parallel.
  template <typename Body>
  void for_each_row(Body&& body) const {
    parallel_for(parts_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        const int64_t last = parameter_.rows * (part + 1) / parts_;
        for (int64_t row = parameter_.rows * part / parts_; row < last; ++row) body(part, row);
      }
    });
  }

  auto gradient(int64_t row) const {
    return scale_ * ConstRow<T>(gradients_ + row * parameter_.columns, parameter_.columns);
  }
  auto squares(int64_t row) const { return gradient(row).square() + static_cast<T>(kEpsilon); }

  void update_full_moment() {
    for_each_row([&](int64_t, int64_t row) {
      Row<T> moment(row_moment_ + row * parameter_.columns, parameter_.columns);
      moment = decay_ * moment + rest_ * squares(row);
    });
  }

  void update_factored_moments() {
    const int64_t columns = parameter_.columns;
    struct ColumnSums;
    T* sums = scratch<ColumnSums, T>(static_cast<size_t>(parts_ * columns));
    std::fill_n(sums, parts_ * columns, T(0));
    for_each_row([&](int64_t part, int64_t row) {
      const auto square = squares(row);
      Row<T>(sums + part * columns, columns) += square;
      row_moment_[row] = decay_ * row_moment_[row] + rest_ * square.mean();
    });
    Row<T> total(sums, columns), moment(column_moment_, columns);
    for (int64_t part = 1; part < parts_; ++part) total += Row<T>(sums + part * columns, columns);
    moment = decay_ * moment + rest_ * (total / static_cast<T>(parameter_.rows));
    mean_row_moment_ = Row<T>(row_moment_, parameter_.rows).mean();
  }

  /// Calls use(gradient of the row / square root of its second moment).
  template <typename Use>
  void with_update(int64_t row, Use&& use) const {
    const int64_t columns = parameter_.columns;
    if (parameter_.factored) {
      const T row_factor = std::sqrt(mean_row_moment_ / row_moment_[row]);
      use(row_factor * gradient(row) / Row<T>(column_moment_, columns).sqrt());
    } else {
      use(gradient(row) / Row<T>(row_moment_ + row * columns, columns).sqrt());
    }
  }

  double sum_of_updates() const {
    std::array<double, kReductionParts> sums{};
    for_each_row([&](int64_t part, int64_t row) {
      with_update(row, [&](const auto& update) {
        sums[static_cast<size_t>(part)] += update.template cast<double>().square().sum();
      });
    });
    double sum = 0;
    for (double part : sums) sum += part;
    return sum;
  }

  void apply(T rate) {
    const T keep = 1 - rate_ * static_cast<T>(parameter_.weight_decay);
    for_each_row([&](int64_t, int64_t row) {
      Row<T> values(values_ + row * parameter_.columns, parameter_.columns);
      with_update(row, [&](const auto& update) { values = keep * values - rate * update; });
    });
  }

  const AdafactorParameter& parameter_;
  T* values_;
  const T* gradients_;
  T* row_moment_;
  T* column_moment_;
  T rate_, scale_, decay_, rest_;
  T mean_row_moment_ = 0;
  int64_t parts_;
};

}  // namespace

void adafactor(const Adafactor& k) {
  if (!k.scalars->finite) return;
  with_type(k.type, [&]<typename T>() {
    for (int64_t i = 0; i < k.parameter_count; ++i) ParameterUpdate<T>(k, k.table[i]).run();
  });
}

}  // namespace perceiver::kernels::cpu
