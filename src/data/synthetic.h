// Images made on the fly, for tests and trials without files.
#pragma once

#include <memory>

#include "luq/data/dataset.h"

namespace luq {

// Image i has label i % num_classes and shows the class's pattern, a smooth colour field keyed by (seed, class), under
// noise keyed by (seed, split, i). Throws UserError for sizes out of range.
std::unique_ptr<Dataset> make_synthetic_dataset(Split split, const SyntheticOptions& options);

}  // namespace luq
