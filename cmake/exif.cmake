# libexif has no package file for CMake.
find_path(EXIF_INCLUDE_DIR libexif/exif-data.h REQUIRED)
find_library(EXIF_LIBRARY exif REQUIRED)
add_library(EXIF::exif UNKNOWN IMPORTED)
set_target_properties(EXIF::exif PROPERTIES IMPORTED_LOCATION ${EXIF_LIBRARY}
                                            INTERFACE_INCLUDE_DIRECTORIES ${EXIF_INCLUDE_DIR})
