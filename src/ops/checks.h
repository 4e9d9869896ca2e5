// What the operations check of their operands: a mistake of the caller is one `user` error, before any work
// is enqueued.
#pragma once

#include <string_view>

#include "perceiver/experimental/tape.h"

namespace perceiver::ops {

/// `tensor`, the operand `what` of operation `op`, must have a value of `type` with `rank` axes, on the
/// tape's device.
void check_operand(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                   DType type, int rank);
/// An activation, [rows, columns] of a floating-point type.
void check_activation(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor);
/// Likewise; `columns` is what the other operands need.
void check_columns(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                   DType type, int64_t columns);
/// Likewise; shape and type are those of `other`.
void check_same(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                const Tensor& other);
/// One value per column: [columns].
void check_vector(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                  DType type, int64_t columns);
/// Integers, at least `count`, on the tape's device.
void check_integers(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                    int64_t count);
/// On the CPU, every integer of `count`, `stride` apart from `first` on, is in [low, high]. A GPU's are not
/// looked at: the host would have to wait for them.
void check_range(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                 int64_t count, int64_t low, int64_t high, int64_t first = 0, int64_t stride = 1);

}  // namespace perceiver::ops
