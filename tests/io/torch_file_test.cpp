#include "io/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>

#include "io/safetensors.h"
#include "tests/support/pickle_bytes.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace testing;  // parts of pickles and archives
using namespace std::string_literals;

using Storages = std::vector<std::pair<std::string, std::string>>;

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

/// A file as torch.save writes it: its pickle and storages by key.
std::string torch_zip(const std::string& value, const Storages& storages, const std::string& root = "archive",
                      bool deflate = false) {
  std::vector<ZipPart> parts = {{root + "/data.pkl", whole_pickle(value), deflate}};
  for (const auto& [key, bytes] : storages) parts.push_back({root + "/data/" + key, bytes, deflate});
  parts.push_back({root + "/version", "3\n"});
  return zip_bytes(parts);
}

/// A file and the bytes that it refers to.
struct Parsed {
  explicit Parsed(std::string content)
      : bytes(std::move(content)), file(TorchFile::parse(std::as_bytes(std::span(bytes)), "a.pt")) {}

  std::vector<double> values(const std::string& name) const {
    const SourceTensor* tensor = file.find(name);
    return tensor == nullptr ? std::vector<double>() : file.values(*tensor);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const SourceTensor& tensor : file.tensors()) result.push_back(tensor.name);
    return result;
  }

  std::string bytes;
  TorchFile file;
};

std::string error_of(const std::string& content) {
  return message_of([&] { Parsed parsed(content); });
}

const std::string twelve = bytes_of<float>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
const std::string storage_of_twelve = pickle_storage("FloatStorage", "0", 12);

Parsed parse_tensor(const std::string& tensor) {
  return Parsed(torch_zip(pickle_dict({{"w", tensor}}), {{"0", twelve}}));
}

std::string tensor_error(const std::string& tensor) {
  return message_of([&] { parse_tensor(tensor); });
}

TEST(TorchFile, OpensAFile) {
  const TempFolder folder;
  const std::string path = folder.write(
      "model.pt",
      torch_zip(pickle_dict({{"w", pickle_tensor(storage_of_twelve, 0, {3, 4}, {4, 1})}}), {{"0", twelve}}));
  TorchFile file = TorchFile::open(path);
  const TorchFile moved = std::move(file);
  ASSERT_EQ(moved.tensors().size(), 1u);
  EXPECT_EQ(moved.source(), path);
  EXPECT_EQ(moved.tensors()[0].name, "w");
  EXPECT_EQ(moved.tensors()[0].dtype, "F32");
  EXPECT_THAT(moved.tensors()[0].shape, ElementsAre(3, 4));
  EXPECT_EQ(moved.values(moved.tensors()[0])[11], 11);
}

TEST(TorchFile, ViewsShareAStorage) {
  EXPECT_THAT(parse_tensor(pickle_tensor(storage_of_twelve, 0, {2, 3}, {1, 4})).values("w"),
              ElementsAre(0, 4, 8, 1, 5, 9));
  EXPECT_THAT(parse_tensor(pickle_tensor(storage_of_twelve, 1, {2, 2}, {8, 2})).values("w"),
              ElementsAre(1, 3, 9, 11));
  EXPECT_THAT(parse_tensor(pickle_tensor(storage_of_twelve, 5, {}, {})).values("w"), ElementsAre(5));
  EXPECT_THAT(parse_tensor(pickle_tensor(storage_of_twelve, 5, {2, 2}, {1, 0})).values("w"),
              ElementsAre(5, 5, 6, 6));
  EXPECT_THAT(parse_tensor(pickle_tensor(storage_of_twelve, 11, {1, 1}, {INT64_MAX, 7})).values("w"),
              ElementsAre(11));
  const Parsed empty = parse_tensor(pickle_tensor(storage_of_twelve, 100, {0, 3}, {3, 1}));
  EXPECT_THAT(empty.file.tensors()[0].shape, ElementsAre(0, 3));
  EXPECT_TRUE(empty.values("w").empty());
}

TEST(TorchFile, ConvertsEachFloatingPointType) {
  const std::vector<uint16_t> halves = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0x8000};
  const std::string value =
      pickle_dict({{"f64", pickle_tensor(pickle_storage("DoubleStorage", "0", 1), 0, {1}, {1})},
                   {"f16", pickle_tensor(pickle_storage("HalfStorage", "1", 6), 0, {6}, {1})},
                   {"bf16", pickle_tensor(pickle_storage("BFloat16Storage", "1", 6), 0, {2}, {1})}});
  const Parsed parsed(torch_zip(value, {{"0", bytes_of<double>({0.1})}, {"1", bytes_of(halves)}}));
  EXPECT_EQ(parsed.values("f64")[0], 0.1);
  EXPECT_THAT(parsed.values("f16"), ElementsAre(1, -2, std::ldexp(1.0, -24), 65504, INFINITY, 0));
  EXPECT_TRUE(std::signbit(parsed.values("f16")[5]));
  EXPECT_EQ(parsed.file.find("bf16")->dtype, "BF16");
  EXPECT_THAT(parsed.values("bf16"), ElementsAre(std::bit_cast<float>(0x3c000000), -2.0f));
}

TEST(TorchFile, NamesIntegersAndRefusesToConvertThem) {
  const Parsed parsed(
      torch_zip(pickle_dict({{"n", pickle_tensor(pickle_storage("LongStorage", "0", 1), 0, {1}, {1})}}),
                {{"0", "12345678"}}));
  EXPECT_EQ(parsed.file.tensors()[0].dtype, "I64");
  EXPECT_THAT(message_of([&] { parsed.values("n"); }), HasSubstr("a.pt: tensor 'n' has the type I64"));
}

TEST(TorchFile, KnowsTheCallsThatMakeTensors) {
  const std::string tensor = pickle_tensor(storage_of_twelve, 2, {2}, {1});
  const std::string four =
      pickle_tuple({storage_of_twelve, pickle_number(2), pickle_call("torch", "Size", {pickle_numbers({2})}),
                    pickle_numbers({1})});
  const std::string untyped =
      pickle_tuple({pickle_text("storage"), pickle_global("torch.storage", "UntypedStorage"),
                    pickle_text("0"), pickle_text("cuda:0"), pickle_number(48)}) +
      "Q";
  for (const std::string& value :
       {tensor, pickle_call("torch._utils", "_rebuild_parameter", {tensor, "\x88", "}"}),
        pickle_call("torch._utils", "_rebuild_parameter_with_state", {tensor, "\x88", "}", "}"}),
        pickle_global("torch._utils", "_rebuild_tensor") + four + "R",
        pickle_call(
            "torch._tensor", "_rebuild_from_type_v2",
            {pickle_global("torch._utils", "_rebuild_tensor"), pickle_global("my", "Tensor"), four, "}"}),
        pickle_call("torch._utils", "_rebuild_tensor_v3",
                    {untyped, pickle_number(2), pickle_numbers({2}), pickle_numbers({1}), "\x89", "N",
                     pickle_global("torch", "float32")})})
    EXPECT_THAT(parse_tensor(value).values("w"), ElementsAre(2, 3));
}

TEST(TorchFile, NamesTensorsByTheirPaths) {
  const std::string tensor = pickle_tensor(storage_of_twelve, 0, {1}, {1});
  const std::string ordered =
      pickle_call("collections", "OrderedDict", {}) + "(" + pickle_text("b.weight") + tensor + "u";
  const std::string haiku =
      pickle_call("haiku._src.data_structures", "FlatMap", {pickle_dict({{"w", tensor}})});
  const std::string root = pickle_dict({{"state_dict", ordered},
                                        {"list", "](" + tensor + "N" + tensor + "e"},
                                        {"pair", pickle_tuple({tensor})},
                                        {"haiku", haiku},
                                        {"numbered", "}K\7" + tensor + "s"}});
  const Parsed parsed(torch_zip(root, {{"0", twelve}}, "my model"));
  EXPECT_THAT(parsed.names(),
              ElementsAre("state_dict/b.weight", "list/0", "list/2", "pair/0", "haiku/w", "numbered/7"));
}

TEST(TorchFile, StepsOverWhatItDoesNotKnow) {
  const std::string tensor = pickle_tensor(storage_of_twelve, 0, {1}, {1});
  const std::string complex = pickle_tensor(pickle_storage("ComplexFloatStorage", "0", 2), 0, {1}, {1});
  const std::string root = pickle_dict(
      {{"task", pickle_call("perceiver.data.text.common", "Task", {pickle_number(1)})},
       {"callback", pickle_call("some", "Callback", {tensor}) + pickle_dict({{"state", tensor}}) + "b"},
       {"complex", complex},
       {"epoch", pickle_number(3)},
       {"w", tensor}});
  const Parsed parsed(torch_zip(root, {{"0", twelve}}));
  EXPECT_THAT(parsed.names(), ElementsAre("w"));
  EXPECT_EQ(find_entry(parsed.file.root(), "epoch")->integer, 3);
}

TEST(TorchFile, InflatesCompressedArchives) {
  const Parsed parsed(torch_zip(pickle_dict({{"w", pickle_tensor(storage_of_twelve, 3, {2}, {1})}}),
                                {{"0", twelve}}, "a", true));
  EXPECT_THAT(parsed.values("w"), ElementsAre(3, 4));
}

TEST(TorchFile, RefusesTensorsOutsideTheirStorage) {
  const int64_t huge = INT64_MAX / 2;
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 0, {13}, {1})),
              HasSubstr("a.pt: tensor 'w' reaches past the 12 elements"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 12, {1}, {1})), HasSubstr("reaches past"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 0, {2, 2}, {11, 1})), HasSubstr("reaches past"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 0, {5, 5}, {huge, huge})),
              HasSubstr("reaches past"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, INT64_MAX, {2}, {1})), HasSubstr("reaches past"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, -1, {1}, {1})),
              HasSubstr("negative offset or stride"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 11, {2}, {-1})),
              HasSubstr("negative offset or stride"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 0, {-2}, {1})), HasSubstr("no shape"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 0, {huge, huge}, {0, 0})), HasSubstr("no shape"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 0, {2}, {1, 1})),
              HasSubstr("1 dimensions and 2 strides"));
  EXPECT_THAT(tensor_error(pickle_tensor(storage_of_twelve, 0, {1 << 30}, {0})),
              HasSubstr("shows the 12 elements of its storage 1073741824 times"));
  EXPECT_THAT(tensor_error(pickle_tensor(pickle_storage("FloatStorage", "0", 13), 0, {1}, {1})),
              HasSubstr("a storage of 13 elements, but of its bytes there are 48"));
  EXPECT_THAT(tensor_error(pickle_tensor(pickle_storage("FloatStorage", "0", huge), 0, {1}, {1})),
              HasSubstr("but of its bytes there are 48"));
  EXPECT_THAT(tensor_error(pickle_tensor(pickle_storage("FloatStorage", "9", 12), 0, {1}, {1})),
              HasSubstr("storage '9', which the file lacks"));
}

TEST(TorchFile, BoundsTreesThatShareTheirBranches) {
  const std::string tensor = pickle_tensor(storage_of_twelve, 0, {1}, {1});
  std::string value = tensor;
  for (int i = 0; i < 30; ++i) value += "2\x86";  // a pair of the same value: 2^30 paths
  EXPECT_THAT(error_of(torch_zip(value, {{"0", twelve}})), HasSubstr("more than 131072 tensors"));
  const std::string name(1 << 20, 'k');
  value = tensor;
  for (int i = 0; i < 7; ++i) value += "2\x86";
  EXPECT_THAT(error_of(torch_zip(pickle_dict({{name, value}}), {{"0", twelve}})),
              HasSubstr("the names of its tensors have more than"));
}

TEST(TorchFile, SearchesBarrenBranchesOnce) {
  std::string value = "](NNe";
  for (int i = 0; i < 31; ++i) value += "2\x86";  // a tree of 2^31 leaves
  const std::string tensor = pickle_tensor(storage_of_twelve, 0, {1}, {1});
  const Parsed parsed(torch_zip(pickle_dict({{"nothing", value}, {"w", tensor}}), {{"0", twelve}}));
  EXPECT_THAT(parsed.names(), ElementsAre("w"));
}

TEST(TorchFile, BoundsTheValuesThatItVisits) {
  // 131071 times the tensor and a list of 100 others.
  std::string value = pickle_tensor(storage_of_twelve, 0, {1}, {1}) + std::string(100, 'N');
  value = "](" + value + "e";
  for (int i = 0; i < 17; ++i) value += "2\x86";
  EXPECT_THAT(error_of(torch_zip(value, {{"0", twelve}})), HasSubstr("more than 8388608 values"));
}

TEST(TorchFile, StepsOverAValueInsideItself) {
  const std::string tensor = pickle_tensor(storage_of_twelve, 0, {1}, {1});
  const Parsed parsed(torch_zip("]q\1(" + tensor + "h\1e", {{"0", twelve}}));
  EXPECT_THAT(parsed.names(), ElementsAre("0"));
}

TEST(TorchFile, OfEqualNamesTheLastCounts) {
  const Parsed parsed(torch_zip(pickle_dict({{"w", pickle_tensor(storage_of_twelve, 1, {1}, {1})},
                                             {"w", pickle_tensor(storage_of_twelve, 2, {1, 1}, {1, 1})}}),
                                {{"0", twelve}}));
  ASSERT_EQ(parsed.file.tensors().size(), 1u);
  EXPECT_THAT(parsed.file.tensors()[0].shape, ElementsAre(1, 1));
  EXPECT_THAT(parsed.values("w"), ElementsAre(2));
}

TEST(TorchFile, ChecksTheByteOrder) {
  const auto with_order = [](const std::string& order) {
    return zip_bytes(
        {{"a/data.pkl", whole_pickle(pickle_dict({{"w", pickle_tensor(storage_of_twelve, 0, {1}, {1})}}))},
         {"a/data/0", twelve},
         {"a/byteorder", order}});
  };
  EXPECT_EQ(Parsed(with_order("little")).file.tensors().size(), 1u);
  EXPECT_THAT(error_of(with_order("big")), HasSubstr("big-endian"));
}

TEST(TorchFile, NamesThePickleAndTheByteInErrors) {
  EXPECT_THAT(error_of(torch_zip("\xf0", {})), HasSubstr("a.pt: archive/data.pkl: byte 2: "));
}

/// A file of torch before 1.6.
std::string legacy_file(const std::string& machine, const std::string& keys, const std::string& storages) {
  return whole_pickle("\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19") + whole_pickle("M\xe9\x03") +
         whole_pickle(machine) +
         whole_pickle(
             pickle_dict({{"w", pickle_tensor(pickle_storage("FloatStorage", "77", 12), 1, {2}, {1})},
                          {"h", pickle_tensor(pickle_storage("HalfStorage", "5", 1), 0, {1}, {1})}})) +
         whole_pickle(keys) + storages;
}
const std::string little_machine = pickle_dict({{"little_endian", "\x88"}});
const std::string two_keys = "](" + pickle_text("5") + pickle_text("77") + "e";
const std::string two_storages = little_endian(1, 8) + "\x00\x3c"s + little_endian(12, 8) + twelve;

TEST(TorchFile, ReadsTheFormatBeforeZip) {
  const Parsed parsed(legacy_file(little_machine, two_keys, two_storages));
  EXPECT_THAT(parsed.values("w"), ElementsAre(1, 2));
  EXPECT_THAT(parsed.values("h"), ElementsAre(1));
}

TEST(TorchFile, RefusesDamageInTheFormatBeforeZip) {
  EXPECT_THAT(
      error_of(legacy_file(little_machine, two_keys, two_storages.substr(0, two_storages.size() - 1))),
      HasSubstr("storage '77' ends past the end"));
  EXPECT_THAT(error_of(legacy_file(little_machine, two_keys, "")),
              HasSubstr("storage '5' ends past the end"));
  EXPECT_THAT(error_of(legacy_file(little_machine, two_keys, little_endian(uint64_t{1} << 62, 8))),
              HasSubstr("storage '5' ends past the end"));
  EXPECT_THAT(error_of(legacy_file(little_machine, "]" + pickle_text("6") + "a", two_storages)),
              HasSubstr("storage '6' is of a type that is not read"));
  EXPECT_THAT(error_of(legacy_file(pickle_dict({{"little_endian", "\x89"}}), two_keys, two_storages)),
              HasSubstr("big-endian"));
}

std::string numpy_dtype(const std::string& name, const std::string& order = "<") {
  return pickle_call("numpy", "dtype", {name, "\x89", "\x88"}) + "(K\3" + pickle_text(order) +
         "NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"s;
}
const std::string f4 = numpy_dtype(pickle_text("f4"));
const std::string six = bytes_of<float>({0, 1, 2, 3, 4, 5});

std::string array_state(const std::string& dtype, const std::string& column_major, const std::string& data,
                        const std::vector<int64_t>& shape = {2, 3}) {
  return pickle_tuple({"K\1", pickle_numbers(shape), dtype, column_major, data});
}
std::string numpy_array(const std::string& state, const std::string& module = "numpy.core.multiarray") {
  return pickle_call(module, "_reconstruct",
                     {pickle_global("numpy", "ndarray"), pickle_numbers({0}), pickle_bytes("b")}) +
         state + "b";
}
Parsed parse_array(const std::string& array) {
  return Parsed(whole_pickle(pickle_dict({{"net", pickle_dict({{"w", array}})}})));
}

TEST(TorchFile, ReadsPickledNumpyArrays) {
  const std::string rows = array_state(f4, "\x89", pickle_bytes(six));
  const std::string columns = array_state(f4, "\x88", pickle_bytes(six));
  EXPECT_THAT(parse_array(numpy_array(rows)).values("net/w"), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(parse_array(numpy_array(rows, "numpy._core.multiarray")).values("net/w"),
              ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(parse_array(numpy_array(columns)).values("net/w"), ElementsAre(0, 2, 4, 1, 3, 5));
  for (const auto& [order, first_row] : {std::pair("C", 1), std::pair("F", 2)}) {
    const std::string array = pickle_call(
        "numpy.core.numeric", "_frombuffer",
        {"\x96"s + little_endian(six.size(), 8) + six, f4, pickle_numbers({2, 3}), pickle_text(order)});
    EXPECT_EQ(parse_array(array).values("net/w")[1], first_row);
  }
}

TEST(TorchFile, ReadsBytesThatProtocol2WroteAsCharacters) {
  const std::string characters = "\x00\x00\xc2\x80\x3f"s;  // the bytes 00 00 80 3f: 1.0
  const std::string data = pickle_call("_codecs", "encode", {pickle_text(characters), pickle_text("latin1")});
  EXPECT_THAT(parse_array(numpy_array(array_state(f4, "\x89", data, {1}))).values("net/w"), ElementsAre(1));
  const std::string wide =
      pickle_call("_codecs", "encode", {pickle_text("\xc4\x80\xc4\x80"), pickle_text("latin1")});
  EXPECT_THAT(message_of([&] { parse_array(numpy_array(array_state(f4, "\x89", wide, {1}))); }),
              HasSubstr("data of an unknown kind"));
}

TEST(TorchFile, ReadsJaxArraysAndBfloat16) {
  const std::string arguments =
      pickle_tuple({pickle_global("numpy", "ndarray"), pickle_numbers({0}), pickle_bytes("b")});
  const std::string bfloat16 = numpy_dtype(pickle_global("ml_dtypes", "bfloat16"));
  for (const auto& [module, name] : {std::pair("jax._src.array", "_reconstruct_array"),
                                     std::pair("jax._src.device_array", "reconstruct_device_array")}) {
    const std::string array =
        pickle_call(module, name,
                    {pickle_global("numpy._core.multiarray", "_reconstruct"), arguments,
                     array_state(bfloat16, "\x89", pickle_bytes("\x80\x3f\x00\x40"s), {2}), "}"});
    EXPECT_THAT(parse_array(array).values("net/w"), ElementsAre(1, 2));
  }
}

TEST(TorchFile, RefusesNumpyArraysThatItCannotRead) {
  const auto error = [](const std::string& state) {
    return message_of([&] { parse_array(numpy_array(state)); });
  };
  EXPECT_THAT(error(array_state(f4, "\x89", pickle_bytes(six), {2, 4})),
              HasSubstr("tensor 'net/w' reaches past the 6 elements"));
  EXPECT_THAT(error(array_state(numpy_dtype(pickle_text("f4"), ">"), "\x89", pickle_bytes(six))),
              HasSubstr("big-endian"));
  const int64_t huge = INT64_MAX / 2;
  EXPECT_THAT(error(array_state(f4, "\x88", pickle_bytes(six), {huge, huge})), HasSubstr("no shape"));
  EXPECT_THAT(parse_array(numpy_array(array_state(f4, "\x89", pickle_bytes(""), {0, huge, huge})))
                  .file.tensors()[0]
                  .shape,
              ElementsAre(0, huge, huge));
}

TEST(TorchFile, SaysWhatOtherFilesAre) {
  EXPECT_THAT(error_of(""), HasSubstr("neither a file of torch.save nor a pickle"));
  EXPECT_THAT(error_of("\x1f\x8b..."), HasSubstr("gunzip"));
  EXPECT_THAT(error_of(std::string(257, '\0') + "ustar"), HasSubstr("tar archive"));
  EXPECT_THAT(error_of(zip_bytes({{"x.npy", "x"}})), HasSubstr("without data.pkl"));
  EXPECT_THAT(error_of(zip_bytes({{"a/data.pkl", "x"}, {"a/constants.pkl", "x"}})), HasSubstr("TorchScript"));
  EXPECT_THAT(error_of(torch_zip(pickle_call("my", "Model", {}), {})),
              HasSubstr("save its state_dict() instead"));
  const std::string nested =
      pickle_call("torch._utils", "_rebuild_tensor_v2",
                  {pickle_call("torch.storage", "_load_from_bytes", {pickle_bytes("x")}), "K\1", ")", ")"});
  EXPECT_THAT(error_of(whole_pickle(pickle_dict({{"w", nested}}))), HasSubstr("saved with pickle alone"));
}

TEST(TorchFile, ReadsTheSameAsSafetensors) {
  SafetensorsWriter writer;
  writer.add("w", "F32", {3, 4}, std::as_bytes(std::span(twelve)));
  const std::string bytes = writer.file();
  const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(bytes)), "a.safetensors");
  const SafetensorsSource source(file);
  ASSERT_EQ(source.tensors().size(), 1u);
  EXPECT_EQ(source.source(), "a.safetensors");
  EXPECT_EQ(source.values(*source.find("w")),
            parse_tensor(pickle_tensor(storage_of_twelve, 0, {3, 4}, {4, 1})).values("w"));
}

/// Whether the file has each tensor of weights.safetensors beside it, with that prefix, bit for bit.
void expect_weights(const fs::path& path, const fs::path& weights, const std::string& prefix) {
  SCOPED_TRACE(path.string());
  const TorchFile file = TorchFile::open(path);
  const SafetensorsFile expected_file = SafetensorsFile::open(weights);
  const SafetensorsSource expected(expected_file);
  ASSERT_GT(expected.tensors().size(), 0u);
  for (const SourceTensor& tensor : expected.tensors()) {
    const SourceTensor* found = file.find(prefix + tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->dtype, tensor.dtype);
    EXPECT_EQ(found->shape, tensor.shape);
    EXPECT_EQ(file.values(*found), expected.values(tensor)) << tensor.name;
  }
}

TEST(TorchFile, TheFilesOfOtherLibrariesHoldTheirWeights) {
  const char* folder = std::getenv("PERCEIVER_PORTS_DIR");
  if (folder == nullptr) GTEST_SKIP() << "PERCEIVER_PORTS_DIR names no folder of their checkpoints";
  const fs::path ports = folder;
  for (const char* name : {"clm_default", "clm_rotary_all", "sam_default"}) {
    const fs::path model = ports / "krasserm" / name;
    expect_weights(model / "model.ckpt", model / "weights.safetensors", "state_dict/model.");
    const TorchFile file = TorchFile::open(model / "model.ckpt");
    const PickleValue* parameters = find_entry(file.root(), "hyper_parameters");
    ASSERT_NE(parameters, nullptr);
    EXPECT_GT(find_entry(*parameters, "max_latents")->integer, 0);
  }
  const fs::path c4 = ports / "krasserm" / "clm_c4_style";
  expect_weights(c4 / "hf" / "pytorch_model.bin", c4 / "weights.safetensors", "backend_model.");
  for (const char* name : {"base", "masked_deep", "wrapped_64"}) {
    const fs::path model = ports / "lucidrains" / name;
    expect_weights(model / "model.pt", model / "weights.safetensors", "");
  }
}

}  // namespace
}  // namespace perceiver
