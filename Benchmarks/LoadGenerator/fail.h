#ifndef LOAD_GENERATOR_FAIL_H
#define LOAD_GENERATOR_FAIL_H

/// Says what went wrong on standard error and ends the process with status 1.
///
/// A load generator has nothing to clean up and no figure worth keeping after an error, so every error ends here.
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/// Like `fail`, with the words for `errno` after the message.
_Noreturn void fail_errno(const char *what);

#endif
