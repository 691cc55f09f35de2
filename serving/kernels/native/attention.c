/* Attention over the paged cache, with online softmax in fp32.
 *
 * Keys are taken in tiles of TILE, tiles in splits of SPLIT, both counted from the context's begin. A query walks through a
 * split's tiles in order, and its splits are merged in order. So what a row gets depends on its own context and window
 * alone: not on the batch, on the threads, or on whether it is decoded or part of a prompt.
 *
 * A tile is turned into fp32 once for all queries that share its key head: the heads of a group and, in a prompt, rows.
 */
#include <math.h>
#include <stddef.h>

#include "numbers.h"

enum { TILE = 32, SPLIT = 256, LANES = 16, MAX_DIM = 256, QUERIES = 24, CHUNKS = MAX_DIM / LANES };

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t)), aligned(2)));
typedef int8_t Codes __attribute__((vector_size(LANES), aligned(1)));
typedef uint32_t Words __attribute__((vector_size(LANES * sizeof(uint32_t)), aligned(4)));

typedef struct {
    const void *query;
    void *attended;
    const void *keys, *values;
    const float *key_scales, *value_scales;
    const int32_t *tables, *contexts;
    int64_t query_stride; /* numbers from row to row */
    int64_t rows;         /* of each sequence: the last ones of its context */
    int64_t heads, kv_heads, head_dim, block_tokens, table_stride, window;
    int64_t dtype, cache_dtype;
} Problem;

/* Queries first … first + count of a sequence, numbered row by row, the heads of one group within a row. */
typedef struct {
    int64_t sequence, kv_head, first, count;
} Item;

/* Softmax that is not divided yet. */
typedef struct {
    float maximum, sum;
    Lanes weighted[CHUNKS];
} State;

/* Key after key, as many chunks each as the head has: what is unused lies behind, not between. */
typedef struct {
    Lanes keys[TILE * CHUNKS], values[TILE * CHUNKS];
} Tile;

static int64_t chunks_of(const Problem *problem) { return (problem->head_dim + LANES - 1) / LANES; }
static int64_t group_of(const Problem *problem) { return problem->heads / problem->kv_heads; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE float number(const void *numbers, int64_t dtype, int64_t i) {
    switch (dtype) {
        case BF16: return bf16_to_float(((const uint16_t *)numbers)[i]);
        case INT8: return (float)((const int8_t *)numbers)[i];
        case E4M3: return e4m3_to_float(((const uint8_t *)numbers)[i]);
        default: return ((const float *)numbers)[i];
    }
}

INLINE Lanes lanes(const void *numbers, int64_t dtype, int64_t i) {
    Lanes wide;
    if (dtype == BF16) {
        Words bits = __builtin_convertvector(*(const Halves *)((const uint16_t *)numbers + i), Words) << 16;
        memcpy(&wide, &bits, sizeof wide);
    } else if (dtype == INT8) {
        wide = __builtin_convertvector(*(const Codes *)((const int8_t *)numbers + i), Lanes);
    } else if (dtype == FP32) {
        wide = *(const Lanes *)((const float *)numbers + i);
    } else {
        for (int lane = 0; lane < LANES; lane++) wide[lane] = number(numbers, dtype, i + lane);
    }
    return wide;
}

/* Numbers start … start + head_dim times scale, in fp32, filled up with zeros. */
INLINE void widen(const Problem *problem, const void *numbers, int64_t dtype, int64_t start, float scale, Lanes *wide) {
    const int64_t whole = problem->head_dim / LANES, rest = problem->head_dim % LANES;
    for (int64_t chunk = 0; chunk < whole; chunk++) wide[chunk] = lanes(numbers, dtype, start + chunk * LANES) * scale;
    if (rest == 0) return;
    wide[whole] = (Lanes){0};
    for (int64_t lane = 0; lane < rest; lane++)
        wide[whole][lane] = number(numbers, dtype, start + whole * LANES + lane) * scale;
}

/* Where the cache has keys first … end of a sequence: places count heads. */
static void find(const Problem *problem, const Item *item, int64_t first, int64_t end, int64_t *places) {
    const int32_t *table = problem->tables + item->sequence * problem->table_stride + first / problem->block_tokens;
    int64_t offset = first % problem->block_tokens;
    for (int64_t key = first; key < end; key++) {
        *places++ = (*table * problem->block_tokens + offset) * problem->kv_heads + item->kv_head;
        if (++offset == problem->block_tokens) {
            offset = 0;
            table++;
        }
    }
}

/* Heads of one key head lie apart, which processors don't foresee: asked for a tile ahead, they come in time. */
static void ask_for(const Problem *problem, const int64_t *places, int64_t count) {
    const int64_t bytes = problem->head_dim * (problem->cache_dtype == FP32 ? 4 : problem->cache_dtype == BF16 ? 2 : 1);
    for (int64_t i = 0; i < count; i++)
        for (int64_t byte = 0; byte < bytes; byte += 64) {
            __builtin_prefetch((const char *)problem->keys + places[i] * bytes + byte);
            __builtin_prefetch((const char *)problem->values + places[i] * bytes + byte);
        }
}

/* Keys and values at `count` places; what a tile has beyond them is keys of zeros. */
static void load_tile(const Problem *problem, const int64_t *places, int64_t count, Tile *tile) {
    const int64_t chunks = chunks_of(problem), dtype = problem->cache_dtype;
    const int scaled = dtype == INT8;
    for (int64_t i = 0; i < count; i++) {
        const int64_t start = places[i] * problem->head_dim;
        widen(problem, problem->keys, dtype, start, scaled ? problem->key_scales[places[i]] : 1.0f, tile->keys + i * chunks);
        widen(problem, problem->values, dtype, start, scaled ? problem->value_scales[places[i]] : 1.0f,
              tile->values + i * chunks);
    }
    for (int64_t place = count * chunks; place < TILE * chunks; place++) tile->keys[place] = (Lanes){0};
}

#if defined(__clang__) || __GNUC__ >= 12
#define EVENS(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODDS(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#else
#define EVENS(a, b) __builtin_shuffle(a, b, (Words){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30})
#define ODDS(a, b) __builtin_shuffle(a, b, (Words){1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31})
#endif

/* The sums of 16 vectors, one a lane: neighbours are added four times. */
INLINE Lanes sums_of(Lanes *vectors) {
#pragma GCC unroll 4
    for (int count = LANES / 2; count > 0; count /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < count; i++)
            vectors[i] = EVENS(vectors[2 * i], vectors[2 * i + 1]) + ODDS(vectors[2 * i], vectors[2 * i + 1]);
    return vectors[0];
}

INLINE void scores_of(const int64_t chunks, const Lanes *query, const Tile *tile, float *scores) {
    for (int part = 0; part < TILE / LANES; part++) {
        Lanes products[LANES];
#pragma GCC unroll 16
        for (int key = 0; key < LANES; key++) {
            const Lanes *keys = tile->keys + (part * LANES + key) * chunks;
            Lanes sum = query[0] * keys[0];
            for (int64_t chunk = 1; chunk < chunks; chunk++) sum += query[chunk] * keys[chunk];
            products[key] = sum;
        }
        *(Lanes *)(scores + part * LANES) = sums_of(products);
    }
}

/* weighted · kept + the values of keys first … end by their weights. `count` chunks stay in registers. */
INLINE void weigh(const int count, const int64_t chunks, const Tile *tile, int64_t chunk, const float *weights, int64_t first, int64_t end,
                  float kept, Lanes *weighted) {
    Lanes sums[4];
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) sums[i] = weighted[chunk + i] * kept;
    for (int64_t key = first; key < end; key++) {
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) sums[i] += tile->values[key * chunks + chunk + i] * weights[key];
    }
#pragma GCC unroll 4
    for (int i = 0; i < count; i++) weighted[chunk + i] = sums[i];
}

/* Keys first … end of a tile, at least one. */
INLINE void attend_tile(const int64_t chunks, const Lanes *query, const Tile *tile, int64_t first, int64_t end, State *state) {
    float scores[TILE], maximum = state->maximum, sum = 0.0f;
    scores_of(chunks, query, tile, scores);
    for (int key = 0; key < TILE; key++) {
        scores[key] = key >= first && key < end ? scores[key] : -INFINITY;
        maximum = scores[key] > maximum ? scores[key] : maximum;
    }
    for (int key = 0; key < TILE; key++) scores[key] = exp_float(scores[key] - maximum);
    Lanes halves = *(const Lanes *)scores + *(const Lanes *)(scores + LANES);
    for (int lane = 0; lane < LANES; lane++) sum += halves[lane];
    const float kept = exp_float(state->maximum - maximum);
    state->maximum = maximum;
    state->sum = state->sum * kept + sum;
    int64_t chunk = 0;
    for (; chunk + 4 <= chunks; chunk += 4) weigh(4, chunks, tile, chunk, scores, first, end, kept, state->weighted);
    for (; chunk < chunks; chunk++) weigh(1, chunks, tile, chunk, scores, first, end, kept, state->weighted);
}

static void attend_64(const Lanes *query, const Tile *tile, int64_t first, int64_t end, State *state) {
    attend_tile(4, query, tile, first, end, state);
}

static void attend_any(int64_t chunks, const Lanes *query, const Tile *tile, int64_t first, int64_t end, State *state) {
    attend_tile(chunks, query, tile, first, end, state);
}

static void reset(int64_t chunks, State *states, int64_t count) {
    for (State *state = states; state < states + count; state++) {
        state->maximum = -INFINITY;
        state->sum = 0.0f;
        for (int64_t chunk = 0; chunk < chunks; chunk++) state->weighted[chunk] = (Lanes){0};
    }
}

/* The keys that a query sees are first … end. */
static void seen_by(const Problem *problem, const Item *item, int64_t query, int64_t *first, int64_t *end) {
    const int64_t row = (item->first + query) / group_of(problem);
    *end = problem->contexts[item->sequence] - problem->rows + row + 1;
    *first = problem->window > 0 ? most(0, *end - problem->window) : 0;
}

static void attend_split(const Problem *problem, const Item *item, int64_t split, Lanes *queries, State *states) {
    const int64_t chunks = chunks_of(problem);
    Tile tile;
    int64_t places[2 * TILE], lowest, highest, unused;
    seen_by(problem, item, 0, &lowest, &unused);
    seen_by(problem, item, item->count - 1, &unused, &highest);
    lowest = most(lowest, split * SPLIT) / TILE * TILE;
    highest = least(highest, (split + 1) * SPLIT);
    if (lowest < highest) find(problem, item, lowest, least(highest, lowest + TILE), places);
    for (int64_t start = lowest; start < highest; start += TILE) {
        const int64_t count = least(highest - start, TILE), following = least(highest - start - count, TILE);
        find(problem, item, start + count, start + count + following, places + TILE);
        ask_for(problem, places + TILE, following);
        load_tile(problem, places, count, &tile);
        memcpy(places, places + TILE, TILE * sizeof(int64_t));
        for (int64_t query = 0; query < item->count; query++) {
            int64_t first, end;
            seen_by(problem, item, query, &first, &end);
            first = most(first, start) - start;
            end = least(end, start + TILE) - start;
            if (first >= end) continue;
            if (chunks == 4)
                attend_64(queries + query * chunks, &tile, first, end, &states[query]);
            else
                attend_any(chunks, queries + query * chunks, &tile, first, end, &states[query]);
        }
    }
}

static void merge(int64_t chunks, State *total, const State *part) {
    if (part->maximum == -INFINITY) return; /* a split of which the window shows nothing */
    const float maximum = total->maximum > part->maximum ? total->maximum : part->maximum;
    const float kept = exp_float(total->maximum - maximum), added = exp_float(part->maximum - maximum);
    total->maximum = maximum;
    total->sum = total->sum * kept + part->sum * added;
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        total->weighted[chunk] = total->weighted[chunk] * kept + part->weighted[chunk] * added;
}

static int64_t head_of(const Problem *problem, const Item *item, int64_t query, int64_t *row) {
    const int64_t group = group_of(problem), flat = item->first + query;
    *row = item->sequence * problem->rows + flat / group;
    return item->kv_head * group + flat % group;
}

static void load_queries(const Problem *problem, const Item *item, Lanes *queries) {
    const float scale = 1.0f / sqrtf((float)problem->head_dim);
    for (int64_t query = 0; query < item->count; query++) {
        int64_t row, head = head_of(problem, item, query, &row);
        const int64_t start = row * problem->query_stride + head * problem->head_dim;
        widen(problem, problem->query, problem->dtype, start, scale, queries + query * chunks_of(problem));
    }
}

static void store(const Problem *problem, const Item *item, int64_t query, const State *state) {
    int64_t row, head = head_of(problem, item, query, &row);
    const int64_t start = (row * problem->heads + head) * problem->head_dim;
    for (int64_t i = 0; i < problem->head_dim; i++) {
        const float value = state->weighted[i / LANES][i % LANES] / state->sum;
        if (problem->dtype == BF16)
            ((uint16_t *)problem->attended)[start + i] = float_to_bf16(value);
        else
            ((float *)problem->attended)[start + i] = value;
    }
}

static int64_t splits_of(const Problem *problem, int64_t sequence) {
    return (problem->contexts[sequence] + SPLIT - 1) / SPLIT;
}

static void attend_item(const Problem *problem, const Item *item) {
    const int64_t chunks = chunks_of(problem);
    Lanes queries[QUERIES * CHUNKS];
    State totals[QUERIES], parts[QUERIES];
    load_queries(problem, item, queries);
    reset(chunks, totals, item->count);
    for (int64_t split = 0; split < splits_of(problem, item->sequence); split++) {
        reset(chunks, parts, item->count);
        attend_split(problem, item, split, queries, parts);
        for (int64_t query = 0; query < item->count; query++) merge(chunks, &totals[query], &parts[query]);
    }
    for (int64_t query = 0; query < item->count; query++) store(problem, item, query, &totals[query]);
}

static int64_t items_of_sequence(const Problem *problem) {
    return (problem->rows * group_of(problem) + QUERIES - 1) / QUERIES * problem->kv_heads;
}

static Item item_at(const Problem *problem, int64_t index) {
    const int64_t each = items_of_sequence(problem), within = index % each;
    const int64_t first = within / problem->kv_heads * QUERIES, queries = problem->rows * group_of(problem);
    return (Item){index / each, within % problem->kv_heads, first, least(QUERIES, queries - first)};
}

/* Attends for sequences · rows rows. Numbers are checked by serving/kernels/native_attention.py. */
void paged_attention(const void *query, void *attended, const void *keys, const void *values, const float *key_scales,
                     const float *value_scales, const int32_t *tables, const int32_t *contexts, int64_t query_stride,
                     int64_t sequences, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                     int64_t block_tokens, int64_t table_stride, int64_t window, int64_t dtype, int64_t cache_dtype,
                     int64_t threads) {
    const Problem problem = {query,        attended, keys,     values,   key_scales, value_scales,
                             tables,       contexts, query_stride, rows, heads,      kv_heads,
                             head_dim,     block_tokens, table_stride, window, dtype, cache_dtype};
    const int64_t items = sequences * items_of_sequence(&problem);
    UNUSED_WITHOUT_OPENMP(threads);
#pragma omp parallel for schedule(dynamic) num_threads((int)threads) if (threads > 1 && items > 1)
    for (int64_t index = 0; index < items; index++) {
        /* From the last on: a prompt's last rows see the most, and the longest work should begin first. */
        const Item item = item_at(&problem, items - 1 - index);
        attend_item(&problem, &item);
    }
}
