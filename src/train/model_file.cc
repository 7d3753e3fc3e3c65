#include "luq/train/model_file.h"

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/train/checkpoint.h"
#include "src/train/dataset_json.h"

namespace luq {

ExperimentConfig ModelFile::stored_config() const {
  if (config.empty()) fail_user("[model] {}: carries no configuration (it is a plain state_dict)", file);
  return parse_experiment(config, file, {});
}

DatasetInfo ModelFile::stored_data() const {
  if (data.empty()) fail_user("[model] {}: does not say what its images were (it is a plain state_dict)", file);
  return parse_dataset_info(data, file);
}

ModelFile read_model_file(const std::string& file, CheckpointWeights weights) {
  SafeTensors content = load_safetensors(file);
  if (!is_checkpoint(content)) {
    return {.file = file,
            .kind = ModelFile::Kind::state_dict,
            .state = std::move(content),
            .is_ema = false,
            .config = "",
            .data = ""};
  }
  const Checkpoint checkpoint = read_checkpoint(file, std::move(content));
  StoredModel stored = model_of(checkpoint, weights);
  return {.file = file,
          .kind = ModelFile::Kind::checkpoint,
          .state = std::move(stored.state),
          .is_ema = stored.is_ema,
          .config = checkpoint.state.config,
          .data = checkpoint.state.data};
}

LoadedState load_model_file(const ModelFile& model_file, Module& model, bool replace_head) {
  if (model_file.kind == ModelFile::Kind::checkpoint) check_column_order(model_file.state, model_file.file, model);
  return load_state_dict(model, model_file.state, {.source = model_file.file, .replace_head = replace_head});
}

}  // namespace luq
