// Descriptors 0, 1 and 2, whoever started the program.
#pragma once

namespace perceiver::program {

/// Opens /dev/null in place of those that are closed: the next file opened would get their number, and
/// messages would be written into it. Reading or writing them still fails, as on a closed descriptor. To be
/// called before any file is opened.
void fill_standard_streams();

}  // namespace perceiver::program
