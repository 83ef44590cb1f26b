/* What routing computes for every query, compiled: the form of texts, hashed words, static vectors, the blend.

   Optional: `routers/compiled.py` says who calls this, and each function has a twin in NumPy that answers
   where nothing was compiled. Words, form: the same bits. Vectors, blend: sums in another order, 1e-6 apart.
   A query's answer does not depend on its company. Python's stable interface: one file serves all versions. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A second copy for processors with wide registers; the loader takes the one that runs here. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

/* ---------------------------------------------------------------- form */

#define SAMPLE_CHARS 8192
#define TAIL_CHARS (SAMPLE_CHARS / 4)
#define MOST_BLANKS 8
#define N_FORM 24

static int is_digit(unsigned char c) { return c >= '0' && c <= '9'; }
static int is_blank(unsigned char c) { return c == ' ' || c == '\t'; }
static int is_space(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static int is_space_of_str(unsigned char c) { return is_space(c) || (c >= 0x1c && c <= 0x1f); }
static int is_word(unsigned char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static const char *const UNITS[] = {
    "m", "km", "cm", "mm", "mph", "g", "kg", "mg", "lb", "lbs", "oz", "l", "kl", "ml", "mile", "miles", "feet", "foot",
    "inch", "inches", "yard", "yards", "meter", "meters", "metre", "metres", "liter", "liters", "litre", "litres",
    "pound", "pounds", "ounce", "ounces", "gallon", "gallons", "gram", "grams", "hour", "hours", "minute", "minutes",
    "second", "seconds", "day", "days", "week", "weeks", "month", "months", "year", "years", "dollar", "dollars",
    "cent", "cents", "percent", NULL};
#define LONGEST_UNIT 7

static int is_unit(const unsigned char *at, Py_ssize_t n) {
    if (n < 1 || n > LONGEST_UNIT) return 0;
    for (const char *const *unit = UNITS; *unit; unit++)
        if ((unsigned char)(*unit)[0] == at[0] && strlen(*unit) == (size_t)n && !memcmp(*unit, at, n)) return 1;
    return 0;
}

/* A digit, at most one space, and a unit that ends there. */
static int count_units(const unsigned char *s, Py_ssize_t n) {
    int found = 0;
    for (Py_ssize_t i = 0; i + 1 < n; i++) {
        if (!is_digit(s[i])) continue;
        Py_ssize_t j = i + 1 + is_space(s[i + 1]);
        if (j >= n) break;
        Py_ssize_t end = j;
        if (s[j] == '%') {
            end = j + 1;
            if (end < n && is_word(s[end])) continue;
        } else {
            while (end < n && is_word(s[end])) end++;
            if (!is_unit(s + j, end - j)) continue;
        }
        found++;
        i = end - 1;
    }
    return found;
}

/* Runs of digits and single points or commas; several of these part them, and one alone is no number. */
static int count_numbers(const unsigned char *s, Py_ssize_t n) {
    int found = 0;
    Py_ssize_t length = 0;
    int is_point_alone = 0;
    for (Py_ssize_t i = 0; i <= n; i++) {
        int point = i < n && (s[i] == '.' || s[i] == ',');
        if (point && i + 1 < n && (s[i + 1] == '.' || s[i + 1] == ',')) {
            found += length > 0 && !is_point_alone;
            length = 0;
            i++;
        } else if (point || (i < n && is_digit(s[i]))) {
            is_point_alone = !length && point;
            length++;
        } else {
            found += length > 0 && !is_point_alone;
            length = 0;
        }
    }
    return found;
}

static int has_arithmetic(const unsigned char *s, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!is_digit(s[i])) continue;
        Py_ssize_t j = i + 1;
        for (int most = 3; most && j < n && is_space(s[j]); most--) j++;
        if (j >= n || !strchr("-+*/^=", s[j]) || !s[j]) continue;
        j++;
        for (int most = 3; most && j < n && is_space(s[j]); most--) j++;
        if (j < n && is_digit(s[j])) return 1;
    }
    return 0;
}

/* Lines that begin as an option does, (A) or 1. ; and as an item of a list does. */
static void count_lines(const unsigned char *s, Py_ssize_t n, int *options, int *bullets) {
    for (Py_ssize_t line = 0; line <= n;) {
        Py_ssize_t i = line;
        for (int most = 8; most && i < n && is_blank(s[i]); most--) i++;
        if (i + 1 < n && (s[i] == '-' || s[i] == '*') && is_space(s[i + 1])) ++*bullets;
        if (i < n && s[i] == '(') i++;
        if (i + 2 < n && ((s[i] >= 'A' && s[i] <= 'J') || (s[i] >= 'a' && s[i] <= 'j') || (s[i] >= '1' && s[i] <= '9'))
            && (s[i + 1] == '.' || s[i + 1] == ')' || s[i + 1] == ':') && is_space(s[i + 2]))
            ++*options;
        const unsigned char *feed = line < n ? memchr(s + line, '\n', n - line) : NULL;
        if (!feed) break;
        line = feed - s + 1;
    }
}

static const struct { const char *phrase; int group; } PHRASES[] = {
    {"yes or no", 0}, {"true or false", 0}, {"yes/no", 0}, {"true/false", 0},
    {"one word", 1}, {"one sentence", 1}, {"briefly", 1}, {"only the", 1}, {"just the", 1}, {"single word", 1},
    {"step by step", 2}, {"show your work", 2}, {"explain why", 2}, {"in detail", 2}, {"reason", 2}, {NULL, 0}};

static void find_phrases(const unsigned char *s, Py_ssize_t n, double *groups) {
    static const char FIRST[] = "ytobjseir";
    unsigned char starts[256] = {0};
    for (const char *c = FIRST; *c; c++) starts[(unsigned char)*c] = starts[(unsigned char)*c - 32] = 1;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!starts[s[i]]) continue;
        for (int p = 0; PHRASES[p].phrase; p++) {
            const char *phrase = PHRASES[p].phrase;
            Py_ssize_t k = 0;
            while (phrase[k] && i + k < n) {
                unsigned char c = s[i + k];
                if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != (unsigned char)phrase[k]) break;
                k++;
            }
            if (!phrase[k]) groups[PHRASES[p].group] = 1.0;
        }
    }
}

static int contains(const unsigned char *s, Py_ssize_t n, unsigned char c, int times) {
    for (Py_ssize_t i = 0; i + times <= n; i++) {
        const unsigned char *at = memchr(s + i, c, n - i);
        if (!at) return 0;
        i = at - s;
        int k = 0;
        while (k < times && i + k < n && s[i + k] == c) k++;
        if (k == times) return 1;
        i += k - 1;
    }
    return 0;
}

static double full(int n, double most) { return log1p(n) / log1p(most); }

static void read_form(const unsigned char *text, Py_ssize_t n_chars, double *out) {
    unsigned char cut[SAMPLE_CHARS + 1];
    const unsigned char *s = text;
    Py_ssize_t n = n_chars;
    if (n_chars > SAMPLE_CHARS) {
        memcpy(cut, text, SAMPLE_CHARS - TAIL_CHARS);
        cut[SAMPLE_CHARS - TAIL_CHARS] = ' ';
        memcpy(cut + SAMPLE_CHARS - TAIL_CHARS + 1, text + n_chars - TAIL_CHARS, TAIL_CHARS);
        s = cut;
        n = SAMPLE_CHARS + 1;
    }
    int tally[256] = {0};
    for (Py_ssize_t i = 0; i < n; i++) tally[s[i]]++;
    static const struct { const char *signs; double scale; } SHARES[] = {
        {"0123456789", 5.0}, {"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 5.0}, {".,:;!?'-", 5.0},
        {"{}()[]<>=_;#&|", 5.0}, {"\\$^", 20.0}, {"+-*/=%<>", 10.0}, {"", 1.0}};
    static const struct { const char *signs; double most; } COUNTS[] = {
        {"\n", 200}, {" \n\t", 5000}, {"?", 10}, {"\"`", 40}};
    int column = 0, n_digits = 0;
    out[column++] = log1p((double)n_chars) / log1p(100000);
    for (int k = 0; k < 7; k++) {
        int sum = 0;
        for (const char *c = SHARES[k].signs; *c; c++) sum += tally[(unsigned char)*c];
        if (!k) n_digits = sum;
        out[column++] = sum * SHARES[k].scale / (n ? n : 1);
    }
    for (int k = 0; k < 4; k++) {
        int sum = 0;
        for (const char *c = COUNTS[k].signs; *c; c++) sum += tally[(unsigned char)*c];
        out[column++] = full(sum, COUNTS[k].most);
    }
    int options = 0, bullets = 0;
    count_lines(s, n, &options, &bullets);
    out[column++] = n_digits ? full(count_numbers(s, n), 50) : 0.0;
    out[column++] = full(options, 8);
    out[column++] = full(bullets, 20);
    out[column++] = n_digits ? full(count_units(s, n), 8) : 0.0;
    out[column++] = n_digits ? has_arithmetic(s, n) : 0.0;
    out[column++] = contains(s, n, '`', 3);
    out[column++] = contains(s, n, '_', 2);
    Py_ssize_t end = n;
    while (end && is_space_of_str(s[end - 1])) end--;
    unsigned char last = end && n - end <= MOST_BLANKS ? s[end - 1] : 0;
    out[column++] = last == '?';
    out[column++] = last == ':';
    out[column] = out[column + 1] = out[column + 2] = 0.0;
    find_phrases(s, n, out + column);
    for (int k = 0; k < N_FORM; k++)
        if (out[k] > 1.0) out[k] = 1.0;
}

PyDoc_STRVAR(form_doc, "form(texts, rows): fill the rows (n_texts, 24) of texts in ASCII; indices of the others.");
static PyObject *form(PyObject *module, PyObject *args) {
    PyObject *texts;
    Py_buffer rows;
    if (!PyArg_ParseTuple(args, "O!w*", &PyList_Type, &texts, &rows)) return NULL;
    PyObject *others = PyList_New(0);
    if (others && rows.len != PyList_Size(texts) * N_FORM * (Py_ssize_t)sizeof(double)) {
        PyErr_SetString(PyExc_ValueError, "rows do not fit the texts");
        Py_CLEAR(others);
    }
    for (Py_ssize_t i = 0; others && i < PyList_Size(texts); i++) {
        PyObject *text = PyList_GetItem(texts, i);
        Py_ssize_t n;
        const char *utf8 = PyUnicode_AsUTF8AndSize(text, &n);
        if (!utf8 && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) { Py_CLEAR(others); break; }
        if (!utf8) PyErr_Clear(); /* half a character */
        if (utf8 && n == PyUnicode_GetLength(text)) {
            read_form((const unsigned char *)utf8, n, (double *)rows.buf + i * N_FORM);
            continue;
        }
        PyObject *number = PyLong_FromSsize_t(i);
        if (!number || PyList_Append(others, number)) Py_CLEAR(others);
        Py_XDECREF(number);
    }
    PyBuffer_Release(&rows);
    return others;
}

/* ---------------------------------------------------------------- hashed words */

#define N_READ 2048
#define SHIFT 17
static const uint32_t SALTS[4] = {0x9E3779B1u, 0x85EBCA6Bu, 0xC2B2AE35u, 0x27D4EB2Fu};

static Py_ssize_t hash_ngrams(const uint32_t *codes, Py_ssize_t n, int salt, uint16_t *out) {
    for (Py_ssize_t i = 0; i < n; i++) out[i] = (uint16_t)((codes[i] * SALTS[salt]) >> SHIFT);
    for (Py_ssize_t i = 0; i + 1 < n; i++)
        out[n + i] = (uint16_t)((((codes[i] * SALTS[salt]) ^ codes[i + 1]) * SALTS[salt + 1]) >> SHIFT);
    return n ? 2 * n - 1 : 0;
}

/* Sort by two passes over bytes, and keep each slot once. */
static Py_ssize_t sort_once(uint16_t *slots, uint16_t *spare, Py_ssize_t n) {
    for (int shift = 0; shift <= 8; shift += 8) {
        uint32_t start[257] = {0};
        for (Py_ssize_t i = 0; i < n; i++) start[((slots[i] >> shift) & 255) + 1]++;
        for (int k = 0; k < 256; k++) start[k + 1] += start[k];
        for (Py_ssize_t i = 0; i < n; i++) spare[start[(slots[i] >> shift) & 255]++] = slots[i];
        uint16_t *swap = slots; slots = spare; spare = swap;
    }
    Py_ssize_t kept = 0; /* two passes: what is sorted is where it was */
    for (Py_ssize_t i = 0; i < n; i++)
        if (!i || slots[i] != slots[i - 1]) spare[kept++] = slots[i];
    memcpy(slots, spare, kept * sizeof *slots);
    return kept;
}

static Py_ssize_t read_slots(PyObject *tokens, PyObject *text, uint16_t **out) {
    Py_buffer ids;
    if (PyObject_GetBuffer(tokens, &ids, PyBUF_SIMPLE)) return -1;
    Py_ssize_t n = ids.len / 4, n_letters = 0, n_chars = PyUnicode_GetLength(text), n_bytes = 0;
    Py_UCS4 letters[N_READ];
    const char *utf8 = n_chars < 0 ? NULL : PyUnicode_AsUTF8AndSize(text, &n_bytes);
    if (!utf8) PyErr_Clear();
    if (!utf8 || n_bytes != n_chars)
        for (Py_ssize_t i = 0; i < n_chars && i < N_READ; i++) {
            Py_UCS4 c = PyUnicode_ReadChar(text, i);
            if (c >= 0x370 && (c < 0x2000 || c > 0x2BFF)) letters[n_letters++] = c;
        }
    uint16_t *slots = malloc((4 * (n + n_letters) + 1) * sizeof *slots);
    if (!slots) { PyBuffer_Release(&ids); PyErr_NoMemory(); return -1; }
    Py_ssize_t found = hash_ngrams(ids.buf, n, 0, slots);
    found += hash_ngrams((const uint32_t *)letters, n_letters, 2, slots + found);
    PyBuffer_Release(&ids);
    *out = slots;
    return sort_once(slots, slots + found, found);
}

PyDoc_STRVAR(slots_doc, "slots(ids, texts): (bytes, width) int64 rows of ascending slots, then -1 to the width.");
static PyObject *slots(PyObject *module, PyObject *args) {
    PyObject *ids, *texts, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &ids, &PyList_Type, &texts)) return NULL;
    Py_ssize_t n = PyList_Size(ids), width = 0;
    if (PyList_Size(texts) != n) {
        PyErr_SetString(PyExc_ValueError, "there are as many ids as texts");
        return NULL;
    }
    uint16_t **rows = calloc(n + 1, sizeof *rows);
    Py_ssize_t *counts = calloc(n + 1, sizeof *counts);
    if (!rows || !counts) { PyErr_NoMemory(); goto done; }
    for (Py_ssize_t i = 0; i < n; i++) {
        counts[i] = read_slots(PyList_GetItem(ids, i), PyList_GetItem(texts, i), rows + i);
        if (counts[i] < 0) goto done;
        if (counts[i] > width) width = counts[i];
    }
    PyObject *data = PyBytes_FromStringAndSize(NULL, n * width * 8);
    if (!data) goto done;
    int64_t *at = (int64_t *)PyBytes_AsString(data);
    for (Py_ssize_t i = 0; i < n; i++, at += width)
        for (Py_ssize_t k = 0; k < width; k++) at[k] = k < counts[i] ? rows[i][k] : -1;
    result = Py_BuildValue("Nn", data, width);
done:
    for (Py_ssize_t i = 0; rows && i < n; i++) free(rows[i]);
    free(rows);
    free(counts);
    return result;
}

/* ---------------------------------------------------------------- the blend */

enum { WORDS, NEIGHBOURS, CLUSTERS, CONTENT };
#define MOST_MEMBERS 8
#define MOST_BUFFERS 64
#define TOGETHER 8
#define CHUNK 512
#define SAME 1e-5f

typedef struct {
    int kind;
    Py_ssize_t n, place, width; /* rows or terms that it knows; which of the products are its own */
    double number, prior; /* its sharpness or last id, or k; its prior */
    const double *mean, *std, *weights;
    const int64_t *places;
    const float *values, *terms, *columns, *residual, *known; /* in single precision where twins widen that */
} Member;

/* Memory for up to TOGETHER queries. */
typedef struct {
    float *rows, *products, *similarity, *spare;
    Py_ssize_t *near;
    double *read, *sums, *correction;
} Scratch;

typedef struct {
    PyObject_HEAD
    Py_ssize_t dim, n_form, n_experts, n_members, n_pulls, n_trees, depth, n_rates, novelty_place, n_buffers;
    double unit, forest_start, forest_end, members_start, members_end;
    const float *form_mean, *form_gain, *pulls, *rates;
    const double *shares, *mean, *threshold;
    const float *leaf;
    const int64_t *column;
    Scratch *free; /* NULL while a call uses it: another thread's call makes its own */
    Member members[MOST_MEMBERS];
    Py_buffer buffers[MOST_BUFFERS];
} Blend;

/* The array at a place of a tuple, which has to hold so many items of that size; kept until the blend goes. */
static int hold(Blend *self, PyObject *tuple, Py_ssize_t at, Py_ssize_t n_items, Py_ssize_t size, const void *out) {
    PyObject *array = PyTuple_GetItem(tuple, at);
    if (!array) return -1;
    if (self->n_buffers == MOST_BUFFERS) { PyErr_SetString(PyExc_ValueError, "too many arrays"); return -1; }
    Py_buffer *view = self->buffers + self->n_buffers;
    if (PyObject_GetBuffer(array, view, PyBUF_SIMPLE)) return -1;
    self->n_buffers++;
    if (view->len != n_items * size) {
        PyErr_Format(PyExc_ValueError, "array %zd has %zd bytes, not %zd", at, view->len, n_items * size);
        return -1;
    }
    *(const void **)out = view->buf;
    return 0;
}

static int within(const int64_t *values, Py_ssize_t n, int64_t most) {
    for (Py_ssize_t i = 0; i < n; i++)
        if (values[i] < 0 || values[i] >= most) { PyErr_SetString(PyExc_ValueError, "a place is out of bounds"); return -1; }
    return 0;
}

static int read_member(Blend *self, Member *member, PyObject *given) {
    PyObject *arrays;
    Py_ssize_t e = self->n_experts;
    if (!PyArg_ParseTuple(given, "innnddO!", &member->kind, &member->n, &member->place, &member->width, &member->number,
                          &member->prior, &PyTuple_Type, &arrays))
        return -1;
    if (member->n < 1 || member->place < 0 || member->width < 0 || member->place + member->width > self->n_pulls) {
        PyErr_SetString(PyExc_ValueError, "a member does not fit");
        return -1;
    }
    if (hold(self, arrays, 0, e, 8, &member->mean) || hold(self, arrays, 1, e, 8, &member->std)) return -1;
    switch (member->kind) {
    case WORDS: /* n terms beside the last place, which stands for every other id */
        if (member->number < 0 || member->number > 1 << 20) { PyErr_SetString(PyExc_ValueError, "ids"); return -1; }
        return hold(self, arrays, 2, (Py_ssize_t)member->number + 1, 8, &member->places)
            || within(member->places, (Py_ssize_t)member->number + 1, member->n + 1)
            || hold(self, arrays, 3, member->n + 1, 4, &member->values)
            || hold(self, arrays, 4, (member->n + 1) * e, 4, &member->terms);
    case CLUSTERS:
        return hold(self, arrays, 2, member->width * (2 * e + 1), 8, &member->weights);
    case CONTENT:
        return hold(self, arrays, 2, (self->dim + self->n_form) * e, 8, &member->weights);
    case NEIGHBOURS:
        if (hold(self, arrays, 2, member->width * member->n, 4, &member->columns)
            || hold(self, arrays, 3, member->n * e, 4, &member->residual))
            return -1;
        return PyTuple_Size(arrays) > 4 ? hold(self, arrays, 4, member->n * e, 4, &member->known) : 0;
    }
    PyErr_SetString(PyExc_ValueError, "no such member");
    return -1;
}

static PyObject *Blend_new(PyTypeObject *type, PyObject *args, PyObject *kwds) {
    PyObject *members, *arrays, *forest, *novelty, *given_sizes;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Blend *self = (Blend *)alloc(type, 0);
    if (!self) return NULL;
    if (!PyArg_ParseTuple(args, "O!O!O!OO", &PyTuple_Type, &given_sizes, &PyTuple_Type, &arrays, &PyTuple_Type, &members,
                          &forest, &novelty)
        || !PyArg_ParseTuple(given_sizes, "nnnndddd", &self->dim, &self->n_form, &self->n_experts, &self->n_pulls,
                             &self->forest_start, &self->forest_end, &self->members_start, &self->members_end))
        goto failed;
    self->n_members = PyTuple_Size(members);
    if (self->dim < 1 || self->n_form < 1 || self->n_experts < 1 || self->n_pulls < 0 || self->n_members < 1
        || self->n_members > MOST_MEMBERS) {
        PyErr_SetString(PyExc_ValueError, "sizes are out of bounds");
        goto failed;
    }
    Py_ssize_t e = self->n_experts, width = self->dim + self->n_form;
    if (hold(self, arrays, 0, self->n_form, 4, &self->form_mean) || hold(self, arrays, 1, self->n_form, 4, &self->form_gain)
        || hold(self, arrays, 2, width * self->n_pulls, 4, &self->pulls)
        || hold(self, arrays, 3, self->n_members, 8, &self->shares) || hold(self, arrays, 4, e, 8, &self->mean))
        goto failed;
    for (Py_ssize_t m = 0; m < self->n_members; m++)
        if (read_member(self, self->members + m, PyTuple_GetItem(members, m))) goto failed;
    if (forest != Py_None) {
        PyObject *held;
        if (!PyArg_ParseTuple(forest, "nndO!", &self->n_trees, &self->depth, &self->unit, &PyTuple_Type, &held)) goto failed;
        if (self->n_trees < 1 || self->depth < 1 || self->depth > 8) {
            PyErr_SetString(PyExc_ValueError, "the forest is out of bounds");
            goto failed;
        }
        Py_ssize_t n_asked = self->n_trees * self->depth;
        if (hold(self, held, 0, n_asked, 8, &self->column) || hold(self, held, 1, n_asked, 8, &self->threshold)
            || hold(self, held, 2, (self->n_trees << self->depth) * e, 4, &self->leaf)
            || within(self->column, n_asked, self->n_form + 2 * self->n_members * e))
            goto failed;
    }
    if (novelty != Py_None) {
        PyObject *held;
        if (!PyArg_ParseTuple(novelty, "nnO!", &self->n_rates, &self->novelty_place, &PyTuple_Type, &held)) goto failed;
        if (self->n_rates < 1 || self->novelty_place < 0 || self->novelty_place + self->n_rates > self->n_pulls) {
            PyErr_SetString(PyExc_ValueError, "novelty is out of bounds");
            goto failed;
        }
        if (hold(self, held, 0, self->n_rates, 4, &self->rates)) goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

/* out (n_columns) += row (n_rows) times a matrix of n_columns, `stride` from row to row. */
WIDE static void multiply(const float *row, Py_ssize_t n_rows, const float *matrix, Py_ssize_t stride, float *out,
                          Py_ssize_t n_columns) {
    Py_ssize_t i = 0;
    for (; i + 4 <= n_rows; i += 4) {
        const float *a = matrix + i * stride, *b = a + stride, *c = b + stride, *d = c + stride;
        float p = row[i], q = row[i + 1], r = row[i + 2], s = row[i + 3];
        for (Py_ssize_t k = 0; k < n_columns; k++) out[k] += (p * a[k] + q * b[k]) + (r * c[k] + s * d[k]);
    }
    for (; i < n_rows; i++)
        for (Py_ssize_t k = 0; k < n_columns; k++) out[k] += row[i] * matrix[i * stride + k];
}

/* The k-th largest of n values, which change places. */
static float find_kth(float *values, Py_ssize_t n, Py_ssize_t k) {
    Py_ssize_t low = 0, high = n - 1, at = k - 1;
    while (low < high) {
        float pivot = values[(low + high) / 2];
        Py_ssize_t i = low, j = high;
        while (i <= j) {
            while (values[i] > pivot) i++;
            while (values[j] < pivot) j--;
            if (i <= j) { float swap = values[i]; values[i++] = values[j]; values[j--] = swap; }
        }
        if (at <= j) high = j;
        else if (at >= i) low = i;
        else break;
    }
    return values[at];
}

WIDE static void take_maxima(const float *values, Py_ssize_t width, Py_ssize_t depth, float *maxima) {
    memcpy(maxima, values, width * sizeof *maxima);
    for (Py_ssize_t d = 1; d < depth; d++)
        for (Py_ssize_t i = 0; i < width; i++) {
            float value = values[d * width + i];
            maxima[i] = value > maxima[i] ? value : maxima[i];
        }
}

/* What the k nearest add to the mean, and their deviation; KNN._look_around says why they weigh as they do. */
static void look_around(const Member *member, Py_ssize_t e, const float *similarity, float *spare, Py_ssize_t *near,
                        double *totals, double *mean, double *std) {
    Py_ssize_t n = member->n, k = (Py_ssize_t)member->number, n_near = 0;
    float threshold = -INFINITY;
    if (n >= 4 * k) { /* each of some maxima is a similarity: what is below the k-th largest is not near */
        take_maxima(similarity, 2 * k, n / (2 * k), spare);
        threshold = find_kth(spare, 2 * k, k);
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        near[n_near] = i;
        n_near += similarity[i] >= threshold;
    }
    if (!n_near) { /* no number is near to any */
        for (Py_ssize_t x = 0; x < e; x++) mean[x] = std[x] = NAN;
        return;
    }
    float top = 0;
    for (Py_ssize_t i = 0; i < n_near; i++) spare[i] = similarity[near[i]];
    float edge = find_kth(spare, n_near, k < n_near ? k : n_near);
    for (Py_ssize_t i = 0; i < n_near; i++)
        if (similarity[near[i]] - edge > top) top = similarity[near[i]] - edge;
    double total = 0, square = 0;
    double *squares = totals + e;
    memset(mean, 0, e * sizeof *mean);
    memset(totals, 0, 2 * e * sizeof *totals);
    for (Py_ssize_t i = 0; i < n_near; i++) {
        float lead = similarity[near[i]] - edge;
        if (top <= SAME ? lead < 0 : lead <= 0) continue;
        double weight = top <= SAME ? 1.0f : lead / top;
        const float *residual = member->residual + near[i] * e;
        for (Py_ssize_t x = 0; x < e; x++) mean[x] += weight * residual[x];
        total += weight;
        square += weight * weight;
        if (!member->known) continue;
        const float *known = member->known + near[i] * e;
        for (Py_ssize_t x = 0; x < e; x++) {
            totals[x] += weight * known[x];
            squares[x] += weight * weight * known[x];
        }
    }
    for (Py_ssize_t x = 0; x < e; x++) {
        double all = (member->known ? totals[x] : total) + member->prior;
        mean[x] = member->mean[x] + mean[x] / all;
        std[x] = member->std[x] * sqrt((member->known ? squares[x] : square) + member->prior) / all;
    }
}

static void weigh_words(const Member *member, Py_ssize_t e, const int64_t *slots, Py_ssize_t n_slots, double *mean) {
    double square = 1e-12, length;
    memset(mean, 0, e * sizeof *mean);
    for (Py_ssize_t s = 0; s < n_slots; s++) {
        if (slots[s] < 0) continue; /* padding */
        int64_t last = (int64_t)member->number, term = member->places[slots[s] < last ? slots[s] : last];
        double value = member->values[term];
        if (value == 0) continue;
        const float *weights = member->terms + term * e;
        for (Py_ssize_t x = 0; x < e; x++) mean[x] += value * weights[x];
        square += value * value;
    }
    length = sqrt(square);
    for (Py_ssize_t x = 0; x < e; x++) mean[x] = member->mean[x] + mean[x] / length;
}

static void mix_clusters(const Member *member, Py_ssize_t e, const float *products, double *sums, double *mean, double *std) {
    memset(sums, 0, (2 * e + 1) * sizeof *sums);
    for (Py_ssize_t c = 0; c < member->width; c++) {
        double share = exp(products[c] * member->number);
        const double *row = member->weights + c * (2 * e + 1);
        for (Py_ssize_t x = 0; x <= 2 * e; x++) sums[x] += share * row[x];
    }
    for (Py_ssize_t x = 0; x < e; x++) {
        mean[x] = sums[x] / sums[2 * e];
        std[x] = sums[e + x] / sums[2 * e];
    }
}

static void weigh_content(const Member *member, Py_ssize_t e, const float *row, Py_ssize_t n, double *mean) {
    memcpy(mean, member->mean, e * sizeof *mean);
    for (Py_ssize_t i = 0; i < n; i++) {
        const double value = row[i], *weights = member->weights + i * e;
        for (Py_ssize_t x = 0; x < e; x++) mean[x] += value * weights[x];
    }
}

static void add_forest(const Blend *self, const double *row, double *out) {
    Py_ssize_t e = self->n_experts;
    const int64_t *column = self->column;
    const double *threshold = self->threshold;
    memset(out, 0, e * sizeof *out);
    for (Py_ssize_t t = 0; t < self->n_trees; t++) {
        Py_ssize_t leaf = 0;
        for (Py_ssize_t d = 0; d < self->depth; d++, column++, threshold++) leaf = 2 * leaf + (row[*column] > *threshold);
        const float *answer = self->leaf + ((t << self->depth) + leaf) * e;
        for (Py_ssize_t x = 0; x < e; x++) out[x] += answer[x];
    }
    for (Py_ssize_t x = 0; x < e; x++) out[x] *= self->unit;
}

static double fade(double novelty, double start, double end) {
    double left = (end - novelty) / (end - start);
    return left < 0 ? 0 : left > 1 ? 1 : left;
}

/* [dense | form] of one query, and the products of its unit vector. */
static void place_query(const Blend *self, const float *dense, const double *form, float *row, float *unit, float *products) {
    Py_ssize_t width = self->dim + self->n_form;
    float limit = (float)(3.0 / sqrt((double)self->n_form));
    memcpy(row, dense, self->dim * sizeof *row);
    for (Py_ssize_t i = 0; i < self->n_form; i++) {
        float z = ((float)form[i] - self->form_mean[i]) * self->form_gain[i];
        row[self->dim + i] = z < -limit ? -limit : z > limit ? limit : z;
    }
    double square = 1e-12;
    for (Py_ssize_t i = 0; i < width; i++) square += (double)row[i] * row[i];
    float length = (float)sqrt(square);
    for (Py_ssize_t i = 0; i < width; i++) unit[i] = row[i] / length;
    memset(products, 0, self->n_pulls * sizeof *products);
    multiply(unit, width, self->pulls, self->n_pulls, products, self->n_pulls);
}

/* Means and deviations of up to TOGETHER queries by all members: (n, 2 · n_members, n_experts) after the form. */
static void ask_members(const Blend *self, Scratch *at, Py_ssize_t n, const int64_t *slots, Py_ssize_t n_slots) {
    Py_ssize_t e = self->n_experts, step = self->n_form + 2 * self->n_members * e;
    for (Py_ssize_t m = 0; m < self->n_members; m++) {
        const Member *member = self->members + m;
        if (member->kind == NEIGHBOURS) {
            memset(at->similarity, 0, n * member->n * sizeof(float));
            for (Py_ssize_t c = 0; c < member->n; c += CHUNK) /* a chunk of columns stays in the cache for all */
                for (Py_ssize_t q = 0; q < n; q++)
                    multiply(at->products + q * self->n_pulls + member->place, member->width, member->columns + c, member->n,
                             at->similarity + q * member->n + c, member->n - c < CHUNK ? member->n - c : CHUNK);
        }
        for (Py_ssize_t q = 0; q < n; q++) {
            double *mean = at->read + q * step + self->n_form + m * e, *std = mean + self->n_members * e;
            const float *products = at->products + q * self->n_pulls + member->place;
            if (member->kind == WORDS || member->kind == CONTENT) memcpy(std, member->std, e * sizeof *std);
            switch (member->kind) {
            case WORDS: weigh_words(member, e, slots + q * n_slots, n_slots, mean); break;
            case CONTENT: weigh_content(member, e, at->rows + q * (self->dim + self->n_form), self->dim + self->n_form, mean); break;
            case CLUSTERS: mix_clusters(member, e, products, at->sums, mean, std); break;
            default: look_around(member, e, at->similarity + q * member->n, at->spare, at->near, at->sums, mean, std);
            }
        }
    }
}

/* What the members said of one query, weighed and corrected. */
static void blend_query(const Blend *self, const double *read, const float *products, double *correction, double *mean, double *std,
                        double *strange) {
    Py_ssize_t e = self->n_experts;
    const double *means = read + self->n_form, *stds = means + self->n_members * e;
    for (Py_ssize_t x = 0; x < e; x++) {
        double first = 0, second = 0;
        for (Py_ssize_t m = 0; m < self->n_members; m++) {
            double value = means[m * e + x], deviation = stds[m * e + x];
            first += self->shares[m] * value;
            second += self->shares[m] * (value * value + deviation * deviation);
        }
        mean[x] = first;
        second -= first * first;
        std[x] = second > 0 ? sqrt(second) : 0;
    }
    if (self->n_trees) add_forest(self, read, correction);
    float novelty = self->n_rates ? INFINITY : 0;
    for (Py_ssize_t c = 0; c < self->n_rates; c++) {
        float distance = self->rates[c] - products[self->novelty_place + c];
        if (distance < novelty) novelty = distance;
    }
    *strange = novelty;
    if (novelty > self->forest_start) {
        double left = fade(novelty, self->members_start, self->members_end);
        for (Py_ssize_t x = 0; x < e; x++) mean[x] = self->mean[x] + (mean[x] - self->mean[x]) * left;
        left = fade(novelty, self->forest_start, self->forest_end);
        for (Py_ssize_t x = 0; x < e && self->n_trees; x++) correction[x] *= left;
    }
    for (Py_ssize_t x = 0; x < e && self->n_trees; x++) mean[x] += correction[x];
}

static void free_scratch(Scratch *at) {
    if (!at) return;
    free(at->rows); free(at->products); free(at->similarity); free(at->spare); free(at->near);
    free(at->read); free(at->sums); free(at->correction); free(at);
}

/* Kept between calls: so much memory is given back to the system, and its pages made anew, each time. */
static Scratch *take_scratch(Blend *self) {
    Scratch *at = self->free;
    self->free = NULL;
    if (at) return at;
    Py_ssize_t e = self->n_experts, width = self->dim + self->n_form, most = 1;
    for (Py_ssize_t m = 0; m < self->n_members; m++)
        if (self->members[m].kind == NEIGHBOURS && self->members[m].n > most) most = self->members[m].n;
    if (!(at = calloc(1, sizeof *at))) return NULL;
    at->rows = malloc((TOGETHER + 1) * width * sizeof(float));
    at->products = malloc((TOGETHER * self->n_pulls + 1) * sizeof(float));
    at->similarity = malloc(TOGETHER * most * sizeof(float));
    at->spare = malloc(most * sizeof(float));
    at->near = malloc((most + 1) * sizeof(Py_ssize_t));
    at->read = malloc(TOGETHER * (self->n_form + 2 * self->n_members * e) * sizeof(double));
    at->sums = malloc((2 * e + 1) * sizeof(double));
    at->correction = malloc(e * sizeof(double));
    if (at->rows && at->products && at->similarity && at->spare && at->near && at->read && at->sums && at->correction) return at;
    free_scratch(at);
    return NULL;
}

static void Blend_dealloc(Blend *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    free_scratch(self->free);
    while (self->n_buffers) PyBuffer_Release(self->buffers + --self->n_buffers);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(predict_doc, "predict(dense, lexical, form, mean, std, novelty): fill mean and std (n_queries, n_experts), and novelty.");
static PyObject *Blend_predict(Blend *self, PyObject *args) {
    Py_buffer dense, lexical, form, mean, std, novelty;
    if (!PyArg_ParseTuple(args, "y*y*y*w*w*w*", &dense, &lexical, &form, &mean, &std, &novelty)) return NULL;
    Py_ssize_t n = dense.len / (self->dim * 4), e = self->n_experts, step = self->n_form + 2 * self->n_members * e;
    Py_ssize_t n_slots = n ? lexical.len / 8 / n : 0;
    int is_done = 0;
    if (dense.len != n * self->dim * 4 || form.len != n * self->n_form * 8 || lexical.len != n * n_slots * 8
        || mean.len != n * e * 8 || std.len != mean.len || novelty.len != n * 8)
        PyErr_SetString(PyExc_ValueError, "the features do not fit the blend");
    else {
        Scratch *at = take_scratch(self);
        if (!at) PyErr_NoMemory();
        else {
            /* The event loop's few queries take less than to hand the interpreter over. */
            PyThreadState *thread = n > TOGETHER ? PyEval_SaveThread() : NULL;
            for (Py_ssize_t start = 0; start < n; start += TOGETHER) {
                Py_ssize_t block = n - start < TOGETHER ? n - start : TOGETHER;
                Py_ssize_t width = self->dim + self->n_form;
                for (Py_ssize_t q = 0; q < block; q++) {
                    const double *own = (const double *)form.buf + (start + q) * self->n_form;
                    memcpy(at->read + q * step, own, self->n_form * 8);
                    place_query(self, (const float *)dense.buf + (start + q) * self->dim, own, at->rows + q * width,
                                at->rows + block * width, at->products + q * self->n_pulls);
                }
                ask_members(self, at, block, (const int64_t *)lexical.buf + start * n_slots, n_slots);
                for (Py_ssize_t q = 0; q < block; q++)
                    blend_query(self, at->read + q * step, at->products + q * self->n_pulls, at->correction,
                                (double *)mean.buf + (start + q) * e, (double *)std.buf + (start + q) * e,
                                (double *)novelty.buf + start + q);
            }
            if (thread) PyEval_RestoreThread(thread);
            is_done = 1;
            if (self->free) free_scratch(at);
            else self->free = at;
        }
    }
    PyBuffer_Release(&dense); PyBuffer_Release(&lexical); PyBuffer_Release(&form);
    PyBuffer_Release(&mean); PyBuffer_Release(&std); PyBuffer_Release(&novelty);
    if (!is_done) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef Blend_methods[] = {{"predict", (PyCFunction)Blend_predict, METH_VARARGS, predict_doc}, {0}};
static PyType_Slot Blend_slots[] = {
    {Py_tp_new, Blend_new}, {Py_tp_dealloc, Blend_dealloc}, {Py_tp_methods, Blend_methods},
    {Py_tp_doc, "Blend(sizes, arrays, members, forest, novelty): a fitted blend, laid out for reading."}, {0, NULL}};
static PyType_Spec Blend_spec = {"routers._compiled.Blend", sizeof(Blend), 0, Py_TPFLAGS_DEFAULT, Blend_slots};

static PyMethodDef functions[] = {
    {"form", form, METH_VARARGS, form_doc},
    {"slots", slots, METH_VARARGS, slots_doc},
    {0}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) {
    PyObject *module = PyModule_Create(&definition), *type = PyType_FromSpec(&Blend_spec);
    if (!module || !type || PyModule_AddObjectRef(module, "Blend", type)) Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
