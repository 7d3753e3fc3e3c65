#include "luq/train/state_dict.h"

#include <algorithm>
#include <cstring>

#include "luq/core/error.h"
#include "src/train/state_slots.h"

namespace luq {
namespace {

constexpr const char* running_variance = ".running_var";
constexpr const char* wrapper_prefixes[] = {"model.", "module.", "state_dict.", "_orig_mod."};

// Advice where every name stands behind a wrapper's prefix, else "".
std::string prefix_hint(const SafeTensors& content) {
  for (const char* prefix : wrapper_prefixes) {
    const auto has_prefix = [prefix](const auto& named) { return named.first.starts_with(prefix); };
    if (!content.tensors.empty() && std::ranges::all_of(content.tensors, has_prefix)) {
      return fmt::format("; every name begins with '{}', a wrapper's: save the state_dict of the model inside it",
                         prefix);
    }
  }
  return "";
}

const Slot* find(const std::vector<Slot>& slots, const std::string& name) {
  const auto found = std::ranges::find(slots, name, &Slot::name);
  return found == slots.end() ? nullptr : &*found;
}

}  // namespace

SafeTensors to_state_dict(Module& model) {
  SafeTensors content;
  for (const Slot& slot : model_slots(model)) {
    if (is_activation_scale(slot.name)) continue;
    content.tensors.emplace_back(slot.name, stored_value(slot));
    if (!slot.name.ends_with(running_variance)) continue;
    const std::string norm = slot.name.substr(0, slot.name.size() - std::strlen(running_variance));
    content.tensors.emplace_back(norm + ".num_batches_tracked", Tensor::zeros({}, DType::int64));
  }
  return content;
}

LoadedState load_state_dict(Module& model, const SafeTensors& content, const LoadStateOptions& options) {
  LoadedState loaded;
  std::vector<Slot> slots = model_slots(model);
  std::vector<std::pair<std::string, Tensor>> stored = content.tensors;
  loaded.activation_scales =
      std::ranges::any_of(stored, [](const auto& named) { return is_activation_scale(named.first); });
  std::vector<Slot> unknown_scales;
  if (!loaded.activation_scales) {
    std::ranges::copy_if(slots, std::back_inserter(unknown_scales),
                         [](const Slot& slot) { return is_activation_scale(slot.name); });
    std::erase_if(slots, [](const Slot& slot) { return is_activation_scale(slot.name); });
  }
  const std::string head = last_linear(model.matmul_layers());
  const Tensor* stored_head = content.find(head + ".weight");
  const Slot* own_head = find(slots, head + ".weight");
  if (options.replace_head && stored_head != nullptr && own_head != nullptr && stored_head->shape().rank() == 2 &&
      stored_head->size(1) == own_head->value.size(1) && stored_head->size(0) != own_head->value.size(0)) {
    loaded.replaced_head = head;
    loaded.stored_classes = stored_head->size(0);
    const auto of_head = [&head](const std::string& name) {
      return name == head + ".weight" || name == head + ".bias";
    };
    std::erase_if(stored, [&](const auto& named) { return of_head(named.first); });
    std::erase_if(slots, [&](const Slot& slot) { return of_head(slot.name); });
  }
  const std::string differences = load_slots(slots, stored);
  if (!differences.empty()) {
    fail_user("[state_dict] {}: does not fit the model: {}{}", options.source, differences, prefix_hint(content));
  }
  for (Slot& slot : unknown_scales) slot.value.zero();
  return loaded;
}

}  // namespace luq
