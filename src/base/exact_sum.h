// A sum of doubles that does not depend on the order, so that any number of ranks gets the same.
#pragma once

#include <cmath>
#include <cstdint>

namespace perceiver {

/// Adds in fixed point, in units of 2^-52: terms below 2^40 in size are rounded to these units, and every sum
/// of them is then exact. Others (infinite, not a number, huge) are added as doubles. Trivially copyable.
class ExactSum {
 public:
  void add(double term) {
    if (!(std::abs(term) < kLargest)) {
      rest_ += term;
      return;
    }
    const double whole = std::floor(term);
    add(static_cast<int64_t>(whole), std::llrint((term - whole) * kUnits));
  }
  void add(const ExactSum& other) {
    add(other.whole_, other.part_);
    rest_ += other.rest_;
  }
  double value() const { return rest_ + (static_cast<double>(whole_) + static_cast<double>(part_) / kUnits); }

 private:
  static constexpr int kBits = 52;
  static constexpr double kUnits = static_cast<double>(int64_t{1} << kBits);
  static constexpr double kLargest = static_cast<double>(int64_t{1} << 40);

  void add(int64_t whole, int64_t part) {
    part_ += part;
    whole_ += whole + (part_ >> kBits);
    part_ &= (int64_t{1} << kBits) - 1;
  }

  int64_t whole_ = 0;
  int64_t part_ = 0;  ///< of a whole, in units of 2^-52
  double rest_ = 0;
};

}  // namespace perceiver
