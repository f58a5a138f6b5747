// What keeps C++ exceptions out of Rust, where they may not pass: a message in their place.

#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>

// The calling thread's last message. A fixed buffer: there may be no memory left for another.
inline thread_local char jola_guard_message[512] = "";

// Runs f. Returns 0, or -1 with a message if it throws.
template <typename F> int32_t jola_guarded(F && f) noexcept {
    try {
        f();
        return 0;
    } catch (const std::exception & e) {
        snprintf(jola_guard_message, sizeof(jola_guard_message), "%s", e.what());
    } catch (...) {
        snprintf(jola_guard_message, sizeof(jola_guard_message), "unknown C++ exception");
    }
    return -1;
}
