/* Which core runs which thread of a step. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "numbers.h"

/* The calling thread goes to the first core, and each other thread of its team to one of the next. */
void pin_threads(const int32_t *cores, int64_t count) {
    UNUSED_WITHOUT_OPENMP(count);
#ifdef __linux__
#pragma omp parallel num_threads((int)count)
    {
        cpu_set_t one;
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        CPU_ZERO(&one);
        CPU_SET(cores[thread], &one);
        sched_setaffinity(0, sizeof one, &one);
    }
#else
    (void)cores;
#endif
}
