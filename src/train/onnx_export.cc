#include "src/train/onnx_export.h"

#include <cmath>
#include <map>
#include <set>

#include "luq/core/error.h"
#include "luq/nn/stored_layout.h"
#include "src/train/onnx.pb.h"
#include "src/train/packing.h"

namespace luq {
namespace {

using onnx::AttributeProto;
using onnx::NodeProto;
using onnx::TensorProto;
using Ints = std::vector<int64_t>;

constexpr int64_t ir_version = 10, opset_version = 21;
constexpr const char* zero_names[] = {"zero_int4", "zero_uint4"};

class Writer {
 public:
  Writer(Module& model, const Var& input) {
    for (Parameter* parameter : model.parameters()) parameters_[parameter->var.identity()] = parameter;
    values_[input.identity()] = "images";
    add_value_info(graph_.add_input(), "images", input.shape());
  }

  void write(const TraceNode& node);
  // Makes "logits" of the value and gives the model.
  std::string finish(const Var& output, const std::string& name);

 private:
  using Operand = TraceNode::Operand;

  static const Operand& operand(const TraceNode& node, const char* role) { return *node.find(role); }
  static int64_t attribute(const TraceNode& node, const char* name) {
    return static_cast<int64_t>(node.attributes.at(name));
  }

  // onnxruntime 1.32 rounds a bias to multiples of the product of the scales where input and weight are codes; an Add
  // behind keeps it as it is.
  static bool has_separate_bias(const TraceNode& node) {
    return node.find("bias") != nullptr && operand(node, "x").codes.defined() &&
           operand(node, "weight").codes.defined();
  }

  void conv2d(const TraceNode& node);
  void linear(const TraceNode& node);
  void batch_norm(const TraceNode& node);
  void layer_norm(const TraceNode& node);
  void embed_tokens(const TraceNode& node);
  void attention(const TraceNode& node);
  void first_token(const TraceNode& node);
  void flatten(const TraceNode& node);
  void pool(const TraceNode& node, const char* op);
  void adaptive_avg_pool2d(const TraceNode& node);
  std::string relu(const std::string& x, double ceiling, const std::string& name);

  // The name of a value; of its quantised form where the op read codes.
  std::string value(const TraceNode& node, const char* role);
  std::string activation(const TraceNode& node, const char* role);
  // A parameter or a constant as an initializer, through DequantizeLinear where the op read codes.
  std::string parameter(const TraceNode& node, const char* role);
  std::string scalar(const std::string& name, float number);
  std::string zero(bool is_unsigned);
  std::string floats(const std::string& name, const Tensor& tensor);
  std::string ints(const std::string& name, const Ints& numbers);
  std::string reshape(const std::string& x, const Ints& shape, const std::string& name);
  std::string transpose(const std::string& x, const Ints& order, const std::string& name);

  TensorProto* add_initializer(const std::string& name, int type, const Shape& shape);
  // A node of one output, which has its name. Its attributes follow.
  NodeProto* add(const char* op, const std::vector<std::string>& inputs, const std::string& name);
  static void set(NodeProto* node, const char* name, int64_t number);
  static void set(NodeProto* node, const char* name, float number);
  static void set(NodeProto* node, const char* name, const Ints& numbers);
  static void add_value_info(onnx::ValueInfoProto* info, const std::string& name, const Shape& shape);
  // "layer1.0.bn2" and then "layer1.0.bn2_2"; "relu_3" for an op without a layer.
  std::string unique(const std::string& name);
  void name_output(const TraceNode& node, const std::string& name) { values_[node.output.identity()] = name; }

  onnx::GraphProto graph_;
  std::map<const void*, std::string> values_;  // of the input and the nodes' outputs
  std::map<const void*, const Parameter*> parameters_;
  std::map<std::pair<const void*, float>, std::string> quantized_;  // activations
  std::set<std::string> names_, initializers_, max_pooled_;
};

std::string Writer::unique(const std::string& name) {
  std::string candidate = name;
  for (int number = 2; !names_.insert(candidate).second; ++number) candidate = fmt::format("{}_{}", name, number);
  return candidate;
}

TensorProto* Writer::add_initializer(const std::string& name, int type, const Shape& shape) {
  if (!initializers_.insert(name).second) return nullptr;
  TensorProto* tensor = graph_.add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(type);
  for (const int64_t extent : shape) tensor->add_dims(extent);
  return tensor;
}

NodeProto* Writer::add(const char* op, const std::vector<std::string>& inputs, const std::string& name) {
  NodeProto* node = graph_.add_node();
  node->set_op_type(op);
  node->set_name(name);
  for (const std::string& input : inputs) node->add_input(input);
  node->add_output(name);
  return node;
}

void Writer::set(NodeProto* node, const char* name, int64_t number) {
  AttributeProto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(AttributeProto::INT);
  attribute->set_i(number);
}

void Writer::set(NodeProto* node, const char* name, float number) {
  AttributeProto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(AttributeProto::FLOAT);
  attribute->set_f(number);
}

void Writer::set(NodeProto* node, const char* name, const Ints& numbers) {
  AttributeProto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(AttributeProto::INTS);
  for (const int64_t number : numbers) attribute->add_ints(number);
}

void Writer::add_value_info(onnx::ValueInfoProto* info, const std::string& name, const Shape& shape) {
  info->set_name(name);
  auto* type = info->mutable_type()->mutable_tensor_type();
  type->set_elem_type(TensorProto::FLOAT);
  type->mutable_shape()->add_dim()->set_dim_param("batch");
  const auto add = [&](int64_t extent) { type->mutable_shape()->add_dim()->set_dim_value(extent); };
  if (shape.rank() == 4) add(shape[3]);
  for (int64_t i = 1; i < std::min<int64_t>(shape.rank(), 3); ++i) add(shape[i]);
}

std::string Writer::scalar(const std::string& name, float number) {
  if (TensorProto* tensor = add_initializer(name, TensorProto::FLOAT, {})) {
    tensor->set_raw_data(&number, sizeof(number));
  }
  return name;
}

std::string Writer::zero(bool is_unsigned) {
  const std::string name = zero_names[is_unsigned ? 1 : 0];
  if (TensorProto* tensor = add_initializer(name, is_unsigned ? TensorProto::UINT4 : TensorProto::INT4, {})) {
    tensor->set_raw_data(std::string(1, '\0'));
  }
  return name;
}

std::string Writer::floats(const std::string& name, const Tensor& tensor) {
  if (TensorProto* initializer = add_initializer(name, TensorProto::FLOAT, tensor.shape())) {
    initializer->set_raw_data(tensor.raw(), static_cast<size_t>(tensor.bytes()));
  }
  return name;
}

std::string Writer::ints(const std::string& name, const Ints& numbers) {
  if (TensorProto* tensor = add_initializer(name, TensorProto::INT64, {static_cast<int64_t>(numbers.size())})) {
    tensor->set_raw_data(numbers.data(), numbers.size() * sizeof(int64_t));
  }
  return name;
}

// An extent of 0 is that of x.
std::string Writer::reshape(const std::string& x, const Ints& shape, const std::string& name) {
  const std::string output = unique(name);
  return add("Reshape", {x, ints(output + ".shape", shape)}, output)->output(0);
}

std::string Writer::transpose(const std::string& x, const Ints& order, const std::string& name) {
  NodeProto* node = add("Transpose", {x}, unique(name));
  set(node, "perm", order);
  return node->output(0);
}

std::string Writer::value(const TraceNode& node, const char* role) {
  const auto found = values_.find(operand(node, role).value.identity());
  if (found != values_.end()) return found->second;
  fail_user("[onnx] the operand {} of {} {} was made by an op that is not recorded: this model has no ONNX form here",
            role, node.op, node.layer);
}

// ONNX has integers of 4 bits, -8..7 or 0..15, and one scale for them.
void check_integers(const TraceNode& node, const char* role, const QTensor& codes) {
  const Grid& grid = codes.format.grid();
  const bool fine = codes.is_one_encoding() && codes.planes.size() == 1 && grid.kind == GridKind::uniform &&
                    (grid.low >= 0 || (grid.low >= -8 && grid.high <= 7)) && codes.format.row().plane[0].factor == 1;
  if (fine) return;
  fail_user("[onnx] {} of {}: expected a 4-bit format of integers, got {}: it has no ONNX form", role, node.layer,
            to_string(codes.format));
}

std::string Writer::activation(const TraceNode& node, const char* role) {
  std::string x = value(node, role);
  const QTensor& codes = operand(node, role).codes;
  if (!codes.defined()) return x;
  check_integers(node, role, codes);
  const auto key = std::pair(operand(node, role).value.identity(), codes.scale);
  if (const auto found = quantized_.find(key); found != quantized_.end()) return found->second;
  const bool is_unsigned = !codes.format.is_signed();
  const Grid& grid = codes.format.grid();
  const auto clip = [&](const char* op, const char* name, int bound) {
    const std::string limit = scalar(node.layer + name, static_cast<float>(bound) * codes.scale);
    x = add(op, {x, limit}, unique(node.layer + ".input_clipped"))->output(0);
  };
  const std::string scale = scalar(node.layer + ".activation_scale", codes.scale);
  // ONNX's integers go from -8 to 7 or from 0 to 15, which may be further than the grid. And onnxruntime 1.32 moves
  // QuantizeLinear in front of a MaxPool, which it cannot run on codes of 4 bits; a Max between them, which changes
  // nothing, keeps it from that.
  if (grid.low > (is_unsigned ? 0 : -8) || max_pooled_.contains(x)) clip("Max", ".activation_min", grid.low);
  if (grid.high < (is_unsigned ? 15 : 7)) clip("Min", ".activation_max", grid.high);
  const std::string quantized =
      add("QuantizeLinear", {x, scale, zero(is_unsigned)}, unique(node.layer + ".input_codes"))->output(0);
  return quantized_[key] =
             add("DequantizeLinear", {quantized, scale, zero(is_unsigned)}, unique(node.layer + ".input"))->output(0);
}

std::string Writer::parameter(const TraceNode& node, const char* role) {
  const Operand& operand = Writer::operand(node, role);
  if (operand.constant) return floats(node.layer + "." + role, operand.value.value());
  const auto found = parameters_.find(operand.value.identity());
  if (found == parameters_.end()) {
    fail_user("[onnx] the operand {} of {} {} is no parameter of the model: this model has no ONNX form here", role,
              node.op, node.layer);
  }
  const Parameter& parameter = *found->second;
  // Linear weights keep the order of columns that their input has here, behind a transposition to NHWC.
  const bool is_convolution = parameter.var.shape().rank() == 4;
  const auto layout = [&](const Tensor& values) {
    return is_convolution ? to_stored_layout(parameter, values) : values;
  };
  if (!operand.codes.defined()) return floats(parameter.name, layout(operand.value.value()));
  const std::string dequantized = parameter.name + ".dequantized";
  if (!names_.insert(dequantized).second) return dequantized;
  check_integers(node, role, operand.codes);
  const Tensor numbers = layout(code_numbers(operand.codes));
  const Tensor packed = pack_flat(numbers);
  add_initializer(parameter.name, TensorProto::INT4, numbers.shape())
      ->set_raw_data(packed.raw(), static_cast<size_t>(packed.bytes()));
  add("DequantizeLinear", {parameter.name, scalar(parameter.name + ".scale", operand.codes.scale)}, dequantized);
  return dequantized;
}

void Writer::conv2d(const TraceNode& node) {
  const bool separate_bias = has_separate_bias(node);
  std::vector<std::string> inputs{activation(node, "x"), parameter(node, "weight")};
  if (node.find("bias") != nullptr && !separate_bias) inputs.push_back(parameter(node, "bias"));
  const int64_t kernel = attribute(node, "kernel"), stride = attribute(node, "stride"),
                padding = attribute(node, "padding"), dilation = attribute(node, "dilation");
  NodeProto* conv = add("Conv", inputs, unique(node.layer));
  set(conv, "kernel_shape", Ints{kernel, kernel});
  set(conv, "strides", Ints{stride, stride});
  set(conv, "pads", Ints{padding, padding, padding, padding});
  set(conv, "dilations", Ints{dilation, dilation});
  set(conv, "group", attribute(node, "groups"));
  std::string y = conv->output(0);
  if (separate_bias) {
    const Tensor& bias = operand(node, "bias").value.value();
    y = add("Add", {y, floats(node.layer + ".bias", bias.reshape({bias.numel(), 1, 1}))},
            unique(node.layer + ".biased"))
            ->output(0);
  }
  name_output(node, y);
}

void Writer::linear(const TraceNode& node) {
  std::string x = activation(node, "x");
  const Shape& shape = operand(node, "x").value.shape();
  const bool is_tokens = shape.rank() == 3;
  if (is_tokens) x = reshape(x, {-1, shape[2]}, node.layer + ".rows");
  std::vector<std::string> inputs{x, parameter(node, "weight")};
  const bool separate_bias = has_separate_bias(node);
  if (node.find("bias") != nullptr && !separate_bias) inputs.push_back(parameter(node, "bias"));
  NodeProto* gemm = add("Gemm", inputs, unique(node.layer));
  set(gemm, "transB", int64_t{1});
  std::string y = gemm->output(0);
  if (separate_bias) y = add("Add", {y, parameter(node, "bias")}, unique(node.layer + ".biased"))->output(0);
  if (is_tokens) y = reshape(y, {-1, shape[1], node.output.shape()[2]}, node.layer + ".tokens");
  name_output(node, y);
}

void Writer::layer_norm(const TraceNode& node) {
  NodeProto* norm = add("LayerNormalization", {value(node, "x"), parameter(node, "weight"), parameter(node, "bias")},
                        unique(node.layer));
  set(norm, "axis", int64_t{-1});
  set(norm, "epsilon", static_cast<float>(node.attributes.at("eps")));
  name_output(node, norm->output(0));
}

void Writer::embed_tokens(const TraceNode& node) {
  const Shape& patches = operand(node, "x").value.shape();
  const int64_t channels = patches[3];
  const std::string columns = reshape(value(node, "x"), {0, channels, patches[1] * patches[2]}, "patches");
  const std::string rows = transpose(columns, {0, 2, 1}, "patch_tokens");
  NodeProto* batch = add("Shape", {rows}, unique("batch_size"));
  set(batch, "start", int64_t{0});
  set(batch, "end", int64_t{1});
  NodeProto* extents = add("Concat", {batch->output(0), ints("class_token.extents", {1, channels})}, unique("extents"));
  set(extents, "axis", int64_t{0});
  const std::string first =
      add("Expand", {parameter(node, "class_token"), extents->output(0)}, unique("class_tokens"))->output(0);
  NodeProto* all = add("Concat", {first, rows}, unique("tokens"));
  set(all, "axis", int64_t{1});
  name_output(node, add("Add", {all->output(0), parameter(node, "positions")}, unique("embedded"))->output(0));
}

void Writer::attention(const TraceNode& node) {
  const int64_t heads = attribute(node, "heads"), width = node.output.shape()[2], head_dim = width / heads;
  NodeProto* split = add("Split", {value(node, "x")}, unique("queries"));
  split->add_output(unique("keys"));
  split->add_output(unique("values"));
  set(split, "axis", int64_t{2});
  set(split, "num_outputs", int64_t{3});
  const std::string queries = split->output(0), keys = split->output(1), values = split->output(2);
  const auto by_head = [&](const std::string& x, const Ints& order) {
    return transpose(reshape(x, {0, 0, heads, head_dim}, x + ".split"), order, x + ".by_head");
  };
  const std::string products =
      add("MatMul", {by_head(queries, {0, 2, 1, 3}), by_head(keys, {0, 2, 3, 1})}, unique("scores"))->output(0);
  const float factor = 1.0f / std::sqrt(static_cast<float>(head_dim));
  NodeProto* softmax =
      add("Softmax",
          {add("Mul", {products, scalar(fmt::format("factor_{}", head_dim), factor)}, unique("scaled"))->output(0)},
          unique("attention"));
  set(softmax, "axis", int64_t{-1});
  const std::string mixed =
      add("MatMul", {softmax->output(0), by_head(values, {0, 2, 1, 3})}, unique("mixed"))->output(0);
  name_output(node, reshape(transpose(mixed, {0, 2, 1, 3}, "mixed.by_token"), {0, 0, width}, "attended"));
}

void Writer::first_token(const TraceNode& node) {
  const std::string index = "first_token.index";
  if (TensorProto* tensor = add_initializer(index, TensorProto::INT64, {})) {
    const int64_t zero = 0;
    tensor->set_raw_data(&zero, sizeof(zero));
  }
  NodeProto* gather = add("Gather", {value(node, "x"), index}, unique("first_token"));
  set(gather, "axis", int64_t{1});
  name_output(node, gather->output(0));
}

// ReLU6 is Min behind Relu: onnxruntime 1.32 does not load a Clip before a QuantizeLinear to 4 bits.
std::string Writer::relu(const std::string& x, double ceiling, const std::string& name) {
  const std::string y = add("Relu", {x}, unique(name))->output(0);
  if (ceiling == 0) return y;
  return add("Min", {y, scalar(fmt::format("ceiling_{}", ceiling), static_cast<float>(ceiling))},
             unique(name + ".ceiling"))
      ->output(0);
}

void Writer::batch_norm(const TraceNode& node) {
  NodeProto* norm = add("BatchNormalization",
                        {value(node, "x"), parameter(node, "weight"), parameter(node, "bias"),
                         parameter(node, "running_mean"), parameter(node, "running_var")},
                        unique(node.layer));
  set(norm, "epsilon", static_cast<float>(node.attributes.at("eps")));
  std::string y = norm->output(0);
  if (node.find("residual") != nullptr) {
    y = add("Add", {y, value(node, "residual")}, unique(node.layer + ".add"))->output(0);
  }
  if (attribute(node, "relu") != 0) y = relu(y, node.attributes.at("ceiling"), node.layer + ".relu");
  name_output(node, y);
}

// Columns stay in the order (H, W, C) that the layers behind expect.
void Writer::flatten(const TraceNode& node) {
  std::string x = value(node, "x");
  const Shape& shape = operand(node, "x").value.shape();
  if (shape.rank() == 4 && shape[1] * shape[2] > 1) x = transpose(x, {0, 2, 3, 1}, "nhwc");
  NodeProto* flat = add("Flatten", {x}, unique("flatten"));
  set(flat, "axis", int64_t{1});
  name_output(node, flat->output(0));
}

void Writer::pool(const TraceNode& node, const char* op) {
  const Shape& shape = operand(node, "x").value.shape();
  const int64_t kernel = attribute(node, "kernel"), stride = attribute(node, "stride"),
                padding = attribute(node, "padding");
  for (const int64_t extent : {shape[1], shape[2]}) {
    if (attribute(node, "ceil_mode") != 0 && (extent + 2 * padding - kernel) % stride != 0) {
      fail_user(
          "[onnx] {} with ceil_mode over {}: runtimes differ in its last window; this model has no ONNX form here",
          node.op, to_string(shape));
    }
  }
  NodeProto* pool = add(op, {value(node, "x")}, unique(node.op));
  set(pool, "kernel_shape", Ints{kernel, kernel});
  set(pool, "strides", Ints{stride, stride});
  set(pool, "pads", Ints{padding, padding, padding, padding});
  if (std::string_view(op) == "AveragePool") set(pool, "count_include_pad", attribute(node, "count_include_pad"));
  if (std::string_view(op) == "MaxPool") max_pooled_.insert(pool->output(0));
  name_output(node, pool->output(0));
}

// (out, in) whose row o holds the weights of the mean over input elements floor(o in / out) .. ceil((o + 1) in / out).
Tensor mean_matrix(int64_t out, int64_t in) {
  Tensor matrix = Tensor::zeros({out, in});
  for (int64_t o = 0; o < out; ++o) {
    const int64_t begin = o * in / out, end = ((o + 1) * in + out - 1) / out;
    for (int64_t i = begin; i < end; ++i) {
      matrix.data<float>()[o * in + i] = 1.0f / static_cast<float>(end - begin);
    }
  }
  return matrix;
}

Tensor transposed(const Tensor& matrix) {
  Tensor result = Tensor::empty({matrix.size(1), matrix.size(0)});
  for (int64_t i = 0; i < matrix.size(0); ++i) {
    for (int64_t j = 0; j < matrix.size(1); ++j) {
      result.data<float>()[j * matrix.size(0) + i] = std::as_const(matrix).data<float>()[i * matrix.size(1) + j];
    }
  }
  return result;
}

void Writer::adaptive_avg_pool2d(const TraceNode& node) {
  const std::string x = value(node, "x");
  const Shape& shape = operand(node, "x").value.shape();
  const int64_t size = attribute(node, "size");
  if (size == 1) {
    name_output(node, add("GlobalAveragePool", {x}, unique("global_avg_pool"))->output(0));
  } else if (shape[1] == size && shape[2] == size) {
    name_output(node, x);
  } else {  // the means of rows and of columns as two matrices
    const std::string name = unique(node.op);
    const std::string columns = add("MatMul", {x, floats(name + ".columns", transposed(mean_matrix(size, shape[2])))},
                                    unique(name + "_columns"))
                                    ->output(0);
    name_output(node,
                add("MatMul", {floats(name + ".rows", mean_matrix(size, shape[1])), columns}, unique(name))->output(0));
  }
}

void Writer::write(const TraceNode& node) {
  if (node.op == "conv2d") return conv2d(node);
  if (node.op == "linear") return linear(node);
  if (node.op == "batch_norm") return batch_norm(node);
  if (node.op == "relu") return name_output(node, relu(value(node, "x"), node.attributes.at("ceiling"), "relu"));
  if (node.op == "add") {
    return name_output(node, add("Add", {value(node, "x"), value(node, "residual")}, unique("add"))->output(0));
  }
  if (node.op == "gelu") return name_output(node, add("Gelu", {value(node, "x")}, unique("gelu"))->output(0));
  if (node.op == "layer_norm") return layer_norm(node);
  if (node.op == "embed_tokens") return embed_tokens(node);
  if (node.op == "attention") return attention(node);
  if (node.op == "first_token") return first_token(node);
  if (node.op == "flatten") return flatten(node);
  if (node.op == "max_pool2d") return pool(node, "MaxPool");
  if (node.op == "avg_pool2d") return pool(node, "AveragePool");
  if (node.op == "adaptive_avg_pool2d") return adaptive_avg_pool2d(node);
  fail_user("[onnx] the op {} has no ONNX form here", node.op);
}

std::string Writer::finish(const Var& output, const std::string& name) {
  const auto found = values_.find(output.identity());
  if (found == values_.end()) {
    fail_user("[onnx] the model's output was made by an op that is not recorded: this model has no ONNX form here");
  }
  add("Identity", {found->second}, "logits");
  add_value_info(graph_.add_output(), "logits", output.shape());
  graph_.set_name(name);
  onnx::ModelProto model;
  model.set_ir_version(ir_version);
  model.set_producer_name("luqtrain");
  model.add_opset_import()->set_version(opset_version);
  *model.mutable_graph() = std::move(graph_);
  std::string bytes;
  if (!model.SerializeToString(&bytes)) fail("[onnx] {}: larger than the 2 GiB that one ONNX file may have", name);
  return bytes;
}

}  // namespace

std::string to_onnx(const std::vector<TraceNode>& trace, Module& model, const Var& input, const Var& output,
                    const std::string& name) {
  Writer writer(model, input);
  for (const TraceNode& node : trace) writer.write(node);
  return writer.finish(output, name);
}

}  // namespace luq
