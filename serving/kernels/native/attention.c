/* Attention over the paged cache, with online softmax in fp32.
 *
 * Keys are taken in tiles of TILE, tiles in splits of SPLIT, both counted from the context's begin. A query walks through a
 * split's tiles in order, and its splits are merged in order. So what a row gets depends on its own context and window
 * alone: not on the batch, on the threads, or on whether it is decoded or part of a prompt.
 *
 * A tile is turned into fp32 once for all queries that share its key head: the heads of a group and, in a prompt, rows.
 * All key heads of a tile are taken in turn, because they lie side by side: the memory is read in long lines.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "numbers.h"
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { TILE = 32, SPLIT = 128, LANES = 16, MAX_DIM = 256, CHUNKS = MAX_DIM / LANES, MAX_ROWS = 16, MAX_QUERIES = 160 };

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

/* Rows first … first + rows of a sequence. Its queries are numbered by key head, then row, then head of the group. */
typedef struct {
    int64_t sequence, first, rows;
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
static int64_t queries_of(const Problem *problem, const Item *item) { return item->rows * problem->heads; }
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
#ifdef __AVX512F__ /* compilers take the way through memory */
        const __m256i halves = _mm256_loadu_si256((const __m256i *)((const uint16_t *)numbers + i));
        return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#endif
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
INLINE void widen(const int64_t head_dim, const void *numbers, const int64_t dtype, int64_t start, float scale, Lanes *wide) {
    const int64_t whole = head_dim / LANES, rest = head_dim % LANES;
    for (int64_t chunk = 0; chunk < whole; chunk++) wide[chunk] = lanes(numbers, dtype, start + chunk * LANES) * scale;
    if (rest == 0) return;
    wide[whole] = (Lanes){0};
    for (int64_t lane = 0; lane < rest; lane++)
        wide[whole][lane] = number(numbers, dtype, start + whole * LANES + lane) * scale;
}

/* Where the cache has keys first … end of a sequence: places count tokens. */
static void find(const Problem *problem, const Item *item, int64_t first, int64_t end, int64_t *places) {
    const int32_t *table = problem->tables + item->sequence * problem->table_stride + first / problem->block_tokens;
    int64_t offset = first % problem->block_tokens;
    for (int64_t key = first; key < end; key++) {
        *places++ = *table * problem->block_tokens + offset;
        if (++offset == problem->block_tokens) {
            offset = 0;
            table++;
        }
    }
}

/* Asks the memory for one token's key and value; processors don't foresee where blocks and heads lie. */
INLINE void ask_for(const Problem *problem, int64_t place, int64_t kv_head, int64_t bytes) {
    const int64_t start = (place * problem->kv_heads + kv_head) * bytes;
    for (int64_t byte = 0; byte < bytes; byte += 64) {
        __builtin_prefetch((const char *)problem->keys + start + byte);
        __builtin_prefetch((const char *)problem->values + start + byte);
    }
}

/* dtype and head_dim are constants where this is inlined and speed counts. */
INLINE void load_heads(const Problem *problem, const int64_t dtype, const int64_t head_dim, const int64_t *places,
                       int64_t count, const int64_t *following, int64_t kv_head, Tile *tile) {
    const int64_t chunks = (head_dim + LANES - 1) / LANES;
    const int64_t bytes = head_dim * (dtype == FP32 ? 4 : dtype == BF16 ? 2 : 1);
    for (int64_t i = 0; i < count; i++) {
        const int64_t place = places[i] * problem->kv_heads + kv_head, start = place * head_dim;
        const float key_scale = dtype == INT8 ? problem->key_scales[place] : 1.0f;
        const float value_scale = dtype == INT8 ? problem->value_scales[place] : 1.0f;
        ask_for(problem, following[i], kv_head, bytes);
        widen(head_dim, problem->keys, dtype, start, key_scale, tile->keys + i * chunks);
        widen(head_dim, problem->values, dtype, start, value_scale, tile->values + i * chunks);
    }
    for (int64_t place = count * chunks; place < TILE * chunks; place++) tile->keys[place] = (Lanes){0};
}

/* One key head's keys and values at `count` places; what a tile has beyond them is keys of zeros. Asks for those of
 * the tile that follows. */
static void load_tile(const Problem *problem, const int64_t *places, int64_t count, const int64_t *following,
                      int64_t kv_head, Tile *tile) {
    const int64_t dtype = problem->cache_dtype, head_dim = problem->head_dim;
    if (dtype == BF16 && head_dim == 64)
        load_heads(problem, BF16, 64, places, count, following, kv_head, tile);
    else if (dtype == BF16)
        load_heads(problem, BF16, head_dim, places, count, following, kv_head, tile);
    else if (dtype == INT8)
        load_heads(problem, INT8, head_dim, places, count, following, kv_head, tile);
    else
        load_heads(problem, dtype, head_dim, places, count, following, kv_head, tile);
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

/* Both fold halves onto each other, which compilers turn into vectors; one number after the other would take longer
 * than the products. */
INLINE float largest_of(const float *scores) {
    float folded[TILE];
    memcpy(folded, scores, sizeof folded);
#pragma GCC unroll 5
    for (int half = TILE / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) folded[i] = folded[i] > folded[i + half] ? folded[i] : folded[i + half];
    return folded[0];
}

INLINE float sum_of(const float *weights) {
    float folded[TILE];
    memcpy(folded, weights, sizeof folded);
#pragma GCC unroll 5
    for (int half = TILE / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) folded[i] += folded[i + half];
    return folded[0];
}

/* Keys first … end of a tile, at least one. */
INLINE void attend_tile(const int64_t chunks, const Lanes *query, const Tile *tile, int64_t first, int64_t end, State *state) {
    float scores[TILE];
    scores_of(chunks, query, tile, scores);
    for (int key = 0; key < TILE; key++) scores[key] = key >= first && key < end ? scores[key] : -INFINITY;
    const float largest = largest_of(scores), maximum = largest > state->maximum ? largest : state->maximum;
    for (int key = 0; key < TILE; key++) scores[key] = exp_float(scores[key] - maximum);
    const float kept = exp_float(state->maximum - maximum);
    state->maximum = maximum;
    state->sum = state->sum * kept + sum_of(scores);
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

/* The keys that a row of an item sees are first … end. */
static void seen_by(const Problem *problem, const Item *item, int64_t row, int64_t *first, int64_t *end) {
    *end = problem->contexts[item->sequence] - problem->rows + item->first + row + 1;
    *first = problem->window > 0 ? most(0, *end - problem->window) : 0;
}

/* All rows of an item over a tile of one key head. queries and states are those of this key head. */
static void attend_rows(const Problem *problem, const Item *item, int64_t start, const Tile *tile, const Lanes *queries,
                        State *states) {
    const int64_t chunks = chunks_of(problem), group = group_of(problem);
    for (int64_t query = 0; query < item->rows * group; query++) {
        int64_t first, end;
        seen_by(problem, item, query / group, &first, &end);
        first = most(first, start) - start;
        end = least(end, start + TILE) - start;
        if (first >= end) continue;
        if (chunks == 4)
            attend_64(queries + query * chunks, tile, first, end, &states[query]);
        else
            attend_any(chunks, queries + query * chunks, tile, first, end, &states[query]);
    }
}

/* An item's queries over a split, into fresh states. */
static void attend_split(const Problem *problem, const Item *item, int64_t split, const Lanes *queries, State *states) {
    const int64_t each = item->rows * group_of(problem), context = problem->contexts[item->sequence];
    Tile tile;
    int64_t places[2 * TILE] = {0}, lowest, highest, unused;
    reset(chunks_of(problem), states, queries_of(problem, item));
    seen_by(problem, item, 0, &lowest, &unused);
    seen_by(problem, item, item->rows - 1, &unused, &highest);
    highest = least(highest, (split + 1) * SPLIT);
    lowest = most(lowest, split * SPLIT) / TILE * TILE;
    if (lowest < highest) find(problem, item, lowest, least(lowest + TILE, highest), places + TILE);
    for (int64_t start = lowest; start < highest; start += TILE) {
        const int64_t count = least(highest - start, TILE), behind = least(context - start - count, TILE);
        memcpy(places, places + TILE, TILE * sizeof(int64_t));
        find(problem, item, start + count, start + count + behind, places + TILE);
        for (int64_t kv_head = 0; kv_head < problem->kv_heads; kv_head++) {
            load_tile(problem, places, count, places + TILE, kv_head, &tile);
            attend_rows(problem, item, start, &tile, queries + kv_head * each * chunks_of(problem), states + kv_head * each);
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

/* Where a query of an item is: its row of the step, and its head. */
static int64_t head_of(const Problem *problem, const Item *item, int64_t query, int64_t *row) {
    const int64_t group = group_of(problem), each = item->rows * group, within = query % each;
    *row = item->sequence * problem->rows + item->first + within / group;
    return query / each * group + within % group;
}

static void load_queries(const Problem *problem, const Item *item, Lanes *queries) {
    const float scale = 1.0f / sqrtf((float)problem->head_dim);
    for (int64_t query = 0; query < queries_of(problem, item); query++) {
        int64_t row, head = head_of(problem, item, query, &row);
        const int64_t start = row * problem->query_stride + head * problem->head_dim;
        widen(problem->head_dim, problem->query, problem->dtype, start, scale, queries + query * chunks_of(problem));
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

/* An item's splits one after the other. */
static void attend_item(const Problem *problem, const Item *item) {
    const int64_t chunks = chunks_of(problem), count = queries_of(problem, item);
    Lanes queries[MAX_QUERIES * CHUNKS];
    State totals[MAX_QUERIES], parts[MAX_QUERIES];
    load_queries(problem, item, queries);
    reset(chunks, totals, count);
    for (int64_t split = 0; split < splits_of(problem, item->sequence); split++) {
        attend_split(problem, item, split, queries, parts);
        for (int64_t query = 0; query < count; query++) merge(chunks, &totals[query], &parts[query]);
    }
    for (int64_t query = 0; query < count; query++) store(problem, item, query, &totals[query]);
}

/* One row's splits side by side, for steps of fewer rows than threads: the same sums in the same order. */
static void attend_row(const Problem *problem, const Item *item, State *parts, int64_t threads) {
    const int64_t chunks = chunks_of(problem), count = queries_of(problem, item);
    const int64_t splits = splits_of(problem, item->sequence);
    Lanes queries[MAX_QUERIES * CHUNKS];
    UNUSED_WITHOUT_OPENMP(threads);
    load_queries(problem, item, queries);
#pragma omp parallel for schedule(dynamic) num_threads((int)threads)
    for (int64_t split = 0; split < splits; split++) attend_split(problem, item, split, queries, parts + split * count);
    for (int64_t query = 0; query < count; query++) {
        for (int64_t split = 1; split < splits; split++) merge(chunks, &parts[query], &parts[split * count + query]);
        store(problem, item, query, &parts[query]);
    }
}

static int64_t rows_of_item(const Problem *problem) {
    return least(problem->rows, most(1, least(MAX_ROWS, MAX_QUERIES / problem->heads)));
}

static int64_t items_of_sequence(const Problem *problem) {
    const int64_t rows = rows_of_item(problem);
    return (problem->rows + rows - 1) / rows;
}

static Item item_at(const Problem *problem, int64_t index) {
    const int64_t each = items_of_sequence(problem), first = index % each * rows_of_item(problem);
    return (Item){index / each, first, least(rows_of_item(problem), problem->rows - first)};
}

/* Whether a single decode row was attended to by several threads; not where it is short or there is no memory. */
static int attend_alone(const Problem *problem, int64_t threads) {
    const Item item = {0, 0, 1};
    const int64_t splits = splits_of(problem, 0);
    State *parts = NULL;
    if (threads < 2 || splits < 2) return 0;
    parts = aligned_alloc(64, (size_t)(splits * problem->heads) * sizeof(State));
    if (parts == NULL) return 0;
    attend_row(problem, &item, parts, threads);
    free(parts);
    return 1;
}

/* Attends for sequences · rows rows. Numbers are checked by serving/kernels/native_attention.py. */
void paged_attention(const void *query, void *attended, const void *keys, const void *values, const float *key_scales,
                     const float *value_scales, const int32_t *tables, const int32_t *contexts, int64_t query_stride,
                     int64_t sequences, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                     int64_t block_tokens, int64_t table_stride, int64_t window, int64_t dtype, int64_t cache_dtype,
                     int64_t threads) {
    const Problem problem = {query,        attended,     keys,         values, key_scales, value_scales,
                             tables,       contexts,     query_stride, rows,   heads,      kv_heads,
                             head_dim,     block_tokens, table_stride, window, dtype,      cache_dtype};
    const int64_t items = sequences * items_of_sequence(&problem);
    if (sequences * rows == 1 && attend_alone(&problem, threads)) return;
#pragma omp parallel for schedule(dynamic) num_threads((int)threads) if (threads > 1 && items > 1)
    for (int64_t index = 0; index < items; index++) {
        /* From the last on: a prompt's last rows see the most, and the longest work should begin first. */
        const Item item = item_at(&problem, items - 1 - index);
        attend_item(&problem, &item);
    }
}
