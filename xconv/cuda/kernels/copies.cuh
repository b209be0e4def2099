// Copies from global to shared memory that no thread waits for: devices from sm_80 on have them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define COPIES_ASYNC 1

// 4, 8 or 16 bytes, on so many bytes.
template <int BYTES> static __device__ inline void copy_async(void* to, const void* from)
{
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(BYTES)
                     : "memory");
}
#else
#define COPIES_ASYNC 0
#endif

// Until what this thread copied is there.
static __device__ inline void wait_for_copies()
{
#if COPIES_ASYNC
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
