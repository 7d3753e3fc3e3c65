// Folders, and names in them, that survive a power cut.
#pragma once

#include <optional>
#include <string>

namespace luq {

// Makes durable what was made, renamed or removed in `folder` ("": the working one). Folders that this user may not
// read or that cannot be synced (some network file systems) are left. Returns errno of a failure, else 0.
int sync_folder(const std::string& folder);

// Makes a folder and those above it that are missing, each durable. Returns errno of a failure, else 0.
int make_folders(const std::string& path);

// All bytes of a file; nullopt when there is none of this name. What cannot be read is not empty: throws Error
// `[where] <file>: cannot be read: <the system's reason>`, UserError for a pipe.
std::optional<std::string> read_if_there(const std::string& where, const std::string& file);

}  // namespace luq
