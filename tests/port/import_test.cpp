// Sources of models that the golden tests do not open: pickled arrays, weights without a configuration,
// models of this library that go to another one.
#include "port/import.h"

#include <gmock/gmock.h>

#include "perceiver/experimental/host_values.h"
#include "port/export.h"
#include "tests/support/golden.h"
#include "tests/support/pickle_bytes.h"
#include "tests/support/small_model.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using ::testing::HasSubstr;

ImportedModel import_on_cpu(const fs::path& path, const ImportOptions& options = {}) {
  return import_model(path, options, DeviceContext::cpu(1), DType::f32);
}

std::vector<float> weights_of(const PerceiverAR& model) {
  return model.parameters().values().to_host<float>();
}

/// A float32 array as NumPy pickles it.
std::string pickled_array(const SafetensorsFile& file, const SafetensorsEntry& entry) {
  const std::span<const std::byte> bytes = file.bytes(entry);
  const std::string data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string dtype =
      testing::pickle_call("numpy", "dtype", {testing::pickle_text("f4"), "\x89", "\x88"}) + "(K\3" +
      testing::pickle_text("<") + "NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"s;
  const std::string state = testing::pickle_tuple(
      {"K\1", testing::pickle_numbers(entry.shape), dtype, "\x89", testing::pickle_bytes(data)});
  return testing::pickle_call("numpy.core.multiarray", "_reconstruct",
                              {testing::pickle_global("numpy", "ndarray"), testing::pickle_numbers({0}),
                               testing::pickle_bytes("b")}) +
         state + "b";
}

// The authors' code keeps parameters as a dict of modules, each a dict of arrays.
TEST(Import, PickledParametersOfTheAuthors) {
  const fs::path golden = testing::golden_folder() / "rotary_ragged.safetensors";
  const SafetensorsFile file = SafetensorsFile::open(golden);
  std::map<std::string, std::vector<std::pair<std::string, std::string>>> modules;
  for (const SafetensorsEntry& entry : file.entries()) {
    const std::string start = "param/";
    if (!entry.name.starts_with(start)) continue;
    const size_t slash = entry.name.rfind('/');
    modules[entry.name.substr(start.size(), slash - start.size())].emplace_back(entry.name.substr(slash + 1),
                                                                                pickled_array(file, entry));
  }
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [name, arrays] : modules) entries.emplace_back(name, testing::pickle_dict(arrays));
  const TempFolder folder;
  const std::string pickle = folder.write("params.pkl", testing::whole_pickle(testing::pickle_dict(entries)));
  EXPECT_THAT(message_of([&] { import_on_cpu(pickle); }), HasSubstr("--config"));
  ImportOptions options;
  options.configuration = folder.write("authors.json", *file.find_metadata("config"));
  EXPECT_EQ(weights_of(*import_on_cpu(pickle, options).model), weights_of(*import_on_cpu(golden).model));
}

TEST(Import, WeightsWithoutAConfigurationSayWhatIsMissing) {
  const fs::path source = testing::golden_folder() / "ports/krasserm/clm_c4_style/hf";
  const ImportedModel whole = import_on_cpu(source);
  const TempFolder folder;
  fs::copy_file(source / "pytorch_model.bin", folder.path("weights.bin"));
  const std::string message = message_of([&] { import_on_cpu(folder.path("weights.bin")); });
  EXPECT_THAT(message, HasSubstr("--context LENGTH"));
  EXPECT_THAT(message, HasSubstr("--latents COUNT"));
  ImportOptions options;
  options.given.context_length = whole.metadata.model.context_length;
  options.given.latents = whole.metadata.model.latents;
  const ImportedModel found = import_on_cpu(folder.path("weights.bin"), options);
  EXPECT_EQ(found.metadata.model.self_heads, whole.metadata.model.self_heads) << "by the frequencies";
  EXPECT_EQ(found.metadata.model.output_norm, whole.metadata.model.output_norm);
  EXPECT_EQ(weights_of(*found.model), weights_of(*whole.model));
  EXPECT_FALSE(found.inferred.empty());
}

ModelConfig text_model() {
  ModelConfig config = testing::with_own_latent_keys(testing::small_model());
  config.vocabulary = 259;
  config.position_encoding = PositionEncoding::rotary;
  config.rotary_fraction = 1;
  return config;
}

LoadedModel model_of_this_library(const ModelConfig& config) {
  LoadedModel loaded;
  loaded.model = std::make_unique<PerceiverAR>(config, DeviceContext::cpu(1), DType::f32);
  loaded.model->parameters().initialize(3);
  loaded.metadata.model = config;
  return loaded;
}

// Trained here with bytes, for krasserm/perceiver-io, whose bytes are numbered otherwise.
TEST(Export, AModelOfBytesComesBackTheSame) {
  const LoadedModel loaded = model_of_this_library(text_model());
  const TempFolder folder;
  export_model(loaded, "krasserm", folder.path("theirs"));
  const ImportedModel back = import_on_cpu(folder.path("theirs"));
  EXPECT_EQ(back.metadata.modality, "text");
  EXPECT_EQ(back.metadata.model.vocabulary, 262) << "with MASK, CLS and SEP";
  const auto rows = [](const PerceiverAR& model) {
    return host_doubles(model.parameters().value(*model.parameters().find("token_embedding.weight")));
  };
  std::vector<double> found = rows(*back.model), wanted = rows(*loaded.model);
  found.resize(wanted.size());
  EXPECT_EQ(found, wanted);
}

TEST(Export, TellsEveryReasonAgainstIt) {
  ModelConfig config = testing::small_model();
  config.vocabulary = 259;
  const LoadedModel loaded = model_of_this_library(config);
  const TempFolder folder;
  const std::string message = message_of([&] { export_model(loaded, "krasserm", folder.path("theirs")); });
  for (const char* key : {"model.activation", "model.biases", "model.latent_keys", "model.query_projection",
                          "model.tied_output", "model.rotary_base"})
    EXPECT_THAT(message, HasSubstr(key));
  EXPECT_FALSE(fs::exists(folder.path("theirs")));
  EXPECT_TRUE(reasons_against_export(loaded, "official").empty());
}

// Files from before model files said format: pt.
TEST(ModelFile, OldFormatStillOpens) {
  const LoadedModel loaded = model_of_this_library(text_model());
  const TempFolder folder;
  SafetensorsWriter writer;
  add_model(writer, *loaded.model, loaded.metadata, loaded.model->parameters().values());
  writer.set_metadata("format", "perceiver");
  writer.write_atomically(folder.path("old.safetensors"));
  const LoadedModel opened = load_model(folder.path("old.safetensors"), DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(weights_of(*opened.model), weights_of(*loaded.model));
}

}  // namespace
}  // namespace perceiver
