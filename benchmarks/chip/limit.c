/* The machine's own limit: add, clip from below and compare over int16, all of it in the first-level cache. */
#include <stdint.h>

#define N 4096

static int16_t v[N], w[N];

int64_t stream(int64_t passes, int16_t low, int16_t threshold)
{
    int64_t fired = 0;
    for (int i = 0; i < N; i++)
        w[i] = (int16_t)(i % 7 - 3);
    for (int64_t p = 0; p < passes; p++) {
        int16_t any = 0;
        for (int i = 0; i < N; i++) {
            int16_t s = (int16_t)(v[i] + w[i]);
            s = s > low ? s : low;
            any |= s >= threshold;
            v[i] = s;
        }
        fired += any;
    }
    return fired;
}
