#include "port/golden_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "perceiver/experimental/host_values.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

const SafetensorsEntry& entry_of(const SafetensorsFile& file, const std::string& name,
                                 std::string_view dtype) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw_user("{}: tensor {} is missing", file.source(), name);
  if (entry->dtype != dtype)
    throw_user("{}: tensor {} is {}, not {}", file.source(), name, entry->dtype, dtype);
  return *entry;
}

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const std::string& name, std::string_view dtype) {
  const std::span<const std::byte> bytes = file.bytes(entry_of(file, name, dtype));
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

class Reader {
 public:
  Reader(const SafetensorsFile& file, const ImportedModel& imported)
      : file_(file), imported_(imported), ours_(imported.vocabulary.inverse()) {}

  GoldenRows read() {
    tokens_ = values_of<int32_t>(file_, "in/tokens", "I32");
    labels_ = values_of<int32_t>(file_, "in/labels", "I32");
    const auto& shape = entry_of(file_, "in/tokens", "I32").shape;
    const auto& latents = entry_of(file_, "in/labels", "I32").shape;
    if (shape.size() != 2 || latents.size() != 2 || latents[0] != shape[0] || latents[1] < 1 ||
        latents[1] > shape[1])
      throw_user("{}: in/tokens has shape [{}], in/labels [{}]", file_.source(), fmt::join(shape, ", "),
                 fmt::join(latents, ", "));
    examples_ = shape[0], length_ = shape[1], golden_.latents = latents[1];
    prefix_ = length_ - golden_.latents;
    read_masks();
    choose_rows();
    fill_batch();
    fill_visible();
    return std::move(golden_);
  }

 private:
  std::vector<uint8_t> mask(const std::string& name, int64_t elements) const {
    if (file_.find(name) == nullptr) return {};
    std::vector<uint8_t> values = values_of<uint8_t>(file_, name, "U8");
    if (static_cast<int64_t>(values.size()) != elements)
      throw_user("{}: {} has {} elements, not {}", file_.source(), name, values.size(), elements);
    return values;
  }

  void read_masks() {
    pads_.assign(static_cast<size_t>(examples_), 0);
    const std::vector<uint8_t> pad = mask("in/pad_mask", examples_ * length_);
    for (size_t i = 0; i < pad.size(); ++i) {
      const auto b = static_cast<int64_t>(i) / length_, n = static_cast<int64_t>(i) % length_;
      if (pad[i] == 0) continue;
      if (n != pads_[static_cast<size_t>(b)])
        throw_user("{}: in/pad_mask has padding inside row {}; only padding on the left can be compared",
                   file_.source(), b);
      ++pads_[static_cast<size_t>(b)];
    }
    attend_ = mask("in/prefix_mask", examples_ * prefix_);
    const auto crosses =
        static_cast<int64_t>(imported_.metadata.model.extra_cross_attention_after.size()) + 1;
    keep_ = mask("in/prefix_keep_mask", crosses * examples_ * prefix_);
  }

  void choose_rows() {
    for (int64_t b = 0; b < examples_; ++b) {
      const bool leaks = pads_[static_cast<size_t>(b)] > prefix_;
      (leaks ? golden_.leaking : golden_.rows).push_back(b);
    }
  }

  /// This library's id of one of theirs.
  int32_t ours(int32_t id) const {
    if (id < 0 || id >= static_cast<int32_t>(ours_.size()))
      throw_user("{}: token {} is outside the model's {} ids", file_.source(), id, ours_.size());
    return static_cast<int32_t>(ours_[static_cast<size_t>(id)]);
  }
  bool counts(int32_t label) const {
    return label >= 0 && !(imported_.dialect == &lucidrains_dialect && label == 0);
  }

  void fill_batch() {
    Batch& batch = golden_.batch;
    batch.resize(static_cast<int64_t>(golden_.rows.size()), length_, 1);
    for (int64_t example = 0; example < batch.size; ++example) {
      const int64_t row = golden_.rows[static_cast<size_t>(example)], pads = pads_[static_cast<size_t>(row)];
      const int64_t length = length_ - pads;
      batch.lengths[static_cast<size_t>(example)] = static_cast<int32_t>(length);
      for (int64_t n = 0; n < length; ++n) {
        const auto cell = static_cast<size_t>(example * length_ + n);
        batch.tokens[cell] = ours(tokens_[static_cast<size_t>(row * length_ + pads + n)]);
        if (batch.tokens[cell] == pad_token)
          throw_user("{}: row {} has PAD among its tokens; only padding on the left can be compared",
                     file_.source(), row);
        batch.positions[cell] = static_cast<int32_t>(n + 1);
      }
      for (int64_t j = 0; j < golden_.latents; ++j) {
        const int32_t label = labels_[static_cast<size_t>(row * golden_.latents + j)];
        if (!counts(label)) continue;
        const int32_t target = ours(label);
        if (target == pad_token) golden_.same_targets = false;
        batch.targets[static_cast<size_t>(example * length_ + length - golden_.latents + j)] = target;
      }
    }
    if (!golden_.leaking.empty()) golden_.same_targets = false;
  }

  void fill_visible() {
    if (attend_.empty() && keep_.empty()) return;
    const size_t crosses = imported_.metadata.model.extra_cross_attention_after.size() + 1;
    golden_.visible.assign(crosses, std::vector<uint8_t>(golden_.batch.tokens.size(), 1));
    for (size_t cross = 0; cross < crosses; ++cross)
      for (size_t example = 0; example < golden_.rows.size(); ++example) hide(cross, example);
  }
  void hide(size_t cross, size_t example) {
    const int64_t row = golden_.rows[example], pads = pads_[static_cast<size_t>(row)];
    for (int64_t n = pads; n < prefix_; ++n) {
      const auto cell = static_cast<size_t>(row * prefix_ + n);
      const size_t layer = cross * static_cast<size_t>(examples_ * prefix_);
      const bool attended = attend_.empty() || attend_[cell] != 0;
      const bool kept = keep_.empty() || keep_[layer + cell] != 0;
      golden_.visible[cross][example * static_cast<size_t>(length_) + static_cast<size_t>(n - pads)] =
          attended && kept;
    }
  }

  const SafetensorsFile& file_;
  const ImportedModel& imported_;
  std::vector<int64_t> ours_, pads_;
  std::vector<int32_t> tokens_, labels_;
  std::vector<uint8_t> attend_, keep_;
  int64_t examples_ = 0, length_ = 0, prefix_ = 0;
  GoldenRows golden_;
};

Tensor mask_tensor(DeviceContext& context, const std::vector<uint8_t>& values, int64_t examples) {
  const int64_t columns = static_cast<int64_t>(values.size()) / std::max<int64_t>(1, examples);
  return Tensor::from_host<uint8_t>(context, {examples, columns}, values);
}

}  // namespace

GoldenRows read_golden_rows(const SafetensorsFile& file, const ImportedModel& imported) {
  if (imported.dialect != &krasserm_dialect && imported.dialect != &lucidrains_dialect)
    throw_user("{}: only files of krasserm/perceiver-io and lucidrains/perceiver-ar-pytorch can be compared",
               file.source());
  return Reader(file, imported).read();
}

ModelInputs golden_inputs(const PerceiverAR& model, const GoldenRows& golden) {
  PassOptions options;
  options.latents = golden.latents;
  ModelInputs inputs = model.prepare(golden.batch, options);
  if (golden.visible.empty()) return inputs;
  inputs.cross.plain_causal = false;
  inputs.cross.key_mask = mask_tensor(model.context(), golden.visible[0], golden.batch.size);
  for (size_t cross = 1; cross < golden.visible.size(); ++cross)
    inputs.extra_key_masks.push_back(mask_tensor(model.context(), golden.visible[cross], golden.batch.size));
  return inputs;
}

std::vector<double> golden_logits(const SafetensorsFile& file, const ImportedModel& imported,
                                  const GoldenRows& golden, size_t example) {
  const auto theirs = values_of<float>(file, "out/logits_exact", "F32");
  const auto latents = static_cast<size_t>(golden.latents);
  const auto their_ids = static_cast<size_t>(imported.vocabulary.size),
             ids = imported.vocabulary.theirs.size();
  const auto row = static_cast<size_t>(golden.rows[example]);
  if (theirs.size() < (row + 1) * latents * their_ids)
    throw_user("{}: out/logits_exact is too small for [{}, {}]", file.source(), latents, their_ids);
  std::vector<double> logits(latents * ids, 0.0);
  for (size_t j = 0; j < latents; ++j)
    for (size_t id = 0; id < ids; ++id) {
      const int64_t their_id = imported.vocabulary.theirs[id];
      if (their_id < 0) continue;
      logits[j * ids + id] = theirs[(row * latents + j) * their_ids + static_cast<size_t>(their_id)];
    }
  return logits;
}

GoldenDifference golden_difference(const SafetensorsFile& file, const ImportedModel& imported,
                                   const GoldenRows& golden) {
  GoldenDifference difference;
  const PerceiverAR& model = *imported.model;
  const ModelInputs inputs = golden_inputs(model, golden);
  const std::vector<double> actual = host_doubles(model.logits(inputs));
  const size_t ids = imported.vocabulary.theirs.size();
  for (size_t example = 0; example < golden.rows.size(); ++example) {
    const std::vector<double> expected = golden_logits(file, imported, golden, example);
    double largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (imported.vocabulary.theirs[i % ids] < 0) continue;
      largest = std::max(largest, std::abs(actual[example * expected.size() + i] - expected[i]));
      difference.largest_logit = std::max(difference.largest_logit, std::abs(expected[i]));
    }
    difference.logits.push_back(largest);
  }
  difference.has_loss = golden.same_targets && file.find("out/loss") != nullptr;
  if (!difference.has_loss) return difference;
  Tape tape(model.context(), false);
  const std::vector<double> totals = host_doubles(model.loss(tape, inputs, {}, Recompute::none).totals);
  difference.loss = totals[0] / totals[4];
  difference.their_loss = static_cast<double>(values_of<float>(file, "out/loss", "F32").at(0));
  return difference;
}

}  // namespace perceiver
