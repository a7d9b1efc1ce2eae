// Goal: the vector-Jacobian product of a step is its derivative: the specification's vectors,
// central differences, and a small reverse-mode tape over PyTorch's sequence of operations, for
// every combination of flags; and at the edges it does what PyTorch does.
#include "adamd/differentiate.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS = 5, VARIABLES = 5 * ELEMENTS + 5, NODES_MAX = 4096 };

// Everything that a step reads, or the cotangents of all of it.
struct inputs {
    struct adamd_vjp_element elements[ELEMENTS];
    int count;
    struct adamd_options options;
    uint64_t t;
};

struct product {
    struct adamd_vjp_element elements[ELEMENTS];
    struct adamd_option_cotangents options;
};

// `bars`: the cotangents of the results.
static struct product product_of(const struct inputs *in, const struct adamd_vjp_element *bars) {
    const struct adamd_vjp_rule rule = adamd_vjp_rule_of(&in->options, in->t);
    struct adamd_vjp_sums sums = {{0}};
    struct product product = {.options = {0}};

    for (int i = 0; i < in->count; i++) {
        struct adamd_vjp_sums terms;
        product.elements[i] = bars[i];
        adamd_vjp(adamd_vjp_kind_of(&rule), &rule, &in->elements[i], &product.elements[i], &terms);
        for (int s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
            sums.sums[s] += terms.sums[s];
        }
    }
    adamd_vjp_fold(&rule, &sums, &product.options);
    return product;
}

static void assert_close(double got, double wanted, double relative, double absolute,
                         const char *what) {
    ck_assert_msg(fabs(got - wanted) <= absolute + relative * fabs(wanted),
                  "%s: got %.17g, wanted %.17g", what, got, wanted);
}

// ------------------------------------------------------------------------------------- the vectors

static const struct vector {
    const char *name;
    bool decoupled, amsgrad, maximize;
    struct adamd_vjp_element bars[2];
    struct adamd_option_cotangents options;
} vectors[] = {
    {"L2",
     false,
     false,
     false,
     {{1.00017516707437, 0.00175167074367947, 0.120641512920964, -0.961367698755281, 0},
      {-0.481161930289787, 0.188380697102128, 1.91614459663791, 0.8372074310022, 0}},
     {-0.593341855213079,
      {2.06225171535548, 1.24930325798163},
      0.0348011603563342,
      -0.375009723460576,
      true}},
    {"L2 maximize",
     false,
     false,
     true,
     {{1.00212879570347, -0.021287957034665, 0.120292713604883, -0.980359870972651, 0},
      {-0.477318386497202, -0.226816135027983, 1.92709068431997, 0.598476114405042, 0}},
     {-0.164079618263932,
      {-2.7568122965734, 0.0307340927234656},
      0.00993996917755145,
      -0.432344313021301,
      true}},
    {"decoupled",
     true,
     false,
     false,
     {{0.99, 0.00365476738146927, 0.120450105542576, -0.963129190202879, 0},
      {-0.495, 0.191693429919744, 1.92168653328595, 0.864360921636321, 0}},
     {-0.775015309736152, {1.67283010810334, 1.4665554545505}, 0.0353402026989291, -0.2, true}},
    {"decoupled amsgrad maximize",
     true,
     true,
     true,
     {{0.99, -0.0220557958256625, 0.120450105542576, -0.858572625772251, 0},
      {-0.495, -0.215851090116894, 1.83015981105204, 0.495, 0.751023758224336}},
     {-0.26489761540177, {-2.92648306305881, -0.483468850826632}, 0.00179758241055568, -0.2, true}},
};

START_TEST(the_specifications_vectors_come_out)
{
    const struct vector *vector = &vectors[_i];
    const struct inputs in = {
        .elements = {{1.0, 0.5, 0.1, 0.3, 0.2}, {-2.0, -1.25, -0.2, 0.04, 0.9}},
        .count = 2,
        .options = {.lr = 0.1,
                    .betas = {0.9, 0.99},
                    .eps = 1e-3,
                    .weight_decay = 0.1,
                    .amsgrad = vector->amsgrad,
                    .maximize = vector->maximize,
                    .decoupled_weight_decay = vector->decoupled},
        .t = 3,
    };
    const struct adamd_vjp_element bars[] = {{1.0, 0.0, 0.25, -1.0, 0.125},
                                             {-0.5, 0.0, 2.0, 0.5, 0.75}};
    const struct product got = product_of(&in, bars);

    for (int i = 0; i < 2; i++) {
        const struct adamd_vjp_element *a = &got.elements[i];
        const struct adamd_vjp_element *b = &vector->bars[i];
        assert_close(a->param, b->param, 1e-12, 1e-14, "thetabar");
        assert_close(a->grad, b->grad, 1e-12, 1e-14, "gbar");
        assert_close(a->exp_avg, b->exp_avg, 1e-12, 1e-14, "mbar");
        assert_close(a->exp_avg_sq, b->exp_avg_sq, 1e-12, 1e-14, "vbar");
        if (vector->amsgrad) {
            assert_close(a->max_exp_avg_sq, b->max_exp_avg_sq, 1e-12, 1e-14, "xbar");
        }
    }
    assert_close(got.options.lr, vector->options.lr, 1e-12, 1e-14, "lrbar");
    assert_close(got.options.betas[0], vector->options.betas[0], 1e-12, 1e-14, "b1bar");
    assert_close(got.options.betas[1], vector->options.betas[1], 1e-12, 1e-14, "b2bar");
    assert_close(got.options.eps, vector->options.eps, 1e-12, 1e-14, "epsbar");
    assert_close(got.options.weight_decay, vector->options.weight_decay, 1e-12, 1e-14, "wdbar");
    ck_assert(got.options.has_weight_decay);
}
END_TEST

// ----------------------------------------------------------------------------------------- scenes

static double uniform(uint64_t *state) {
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return (double)(*state >> 11) / 9007199254740992.0;
}

// Row `i` of 48: sixteen combinations of flags at three steps. No element is near a tie.
static struct inputs scene_of(int i) {
    static const uint64_t steps[] = {1, 2, 11};
    struct inputs in = {
        .count = ELEMENTS,
        .options = {.lr = 0.1, .betas = {0.9, 0.99}, .eps = 1e-3},
        .t = steps[i / 16],
    };
    uint64_t state = (uint64_t)i + 1;

    in.options.amsgrad = i % 2 == 1;
    in.options.maximize = i / 2 % 2 == 1;
    in.options.decoupled_weight_decay = i / 4 % 2 == 1;
    in.options.weight_decay = i / 8 % 2 == 1 ? 0.37 : 0.0;
    for (int k = 0; k < ELEMENTS; k++) {
        in.elements[k] = (struct adamd_vjp_element){
            .param = 4.0 * uniform(&state) - 2.0,
            .grad = 2.0 * uniform(&state) - 1.0,
            .exp_avg = uniform(&state) - 0.5,
            .exp_avg_sq = 0.1 + 0.3 * uniform(&state),
        };
        in.elements[k].max_exp_avg_sq = in.elements[k].exp_avg_sq * (k % 2 == 0 ? 0.5 : 1.5);
    }
    return in;
}

static void draw_bars(int i, struct adamd_vjp_element bars[ELEMENTS]) {
    uint64_t state = (uint64_t)i + 1000;

    for (int k = 0; k < ELEMENTS; k++) {
        bars[k] = (struct adamd_vjp_element){
            .param = 2.0 * uniform(&state) - 1.0,
            .exp_avg = 2.0 * uniform(&state) - 1.0,
            .exp_avg_sq = 2.0 * uniform(&state) - 1.0,
            .max_exp_avg_sq = 2.0 * uniform(&state) - 1.0,
        };
    }
}

// The j-th variable: elements, then lr, beta1, beta2, eps, weight_decay.
static double *variable(struct inputs *in, int j) {
    double *const options[] = {&in->options.lr, &in->options.betas[0], &in->options.betas[1],
                               &in->options.eps, &in->options.weight_decay};
    struct adamd_vjp_element *element;

    if (j >= 5 * ELEMENTS) {
        return options[j - 5 * ELEMENTS];
    }
    element = &in->elements[j / 5];
    switch (j % 5) {
    case 0:
        return &element->param;
    case 1:
        return &element->grad;
    case 2:
        return &element->exp_avg;
    case 3:
        return &element->exp_avg_sq;
    default:
        return &element->max_exp_avg_sq;
    }
}

// The cotangent of the j-th variable.
static double cotangent(const struct product *product, int j) {
    struct inputs as_inputs = {
        .options = {.lr = product->options.lr,
                    .betas = {product->options.betas[0], product->options.betas[1]},
                    .eps = product->options.eps,
                    .weight_decay = product->options.weight_decay}};

    memcpy(as_inputs.elements, product->elements, sizeof as_inputs.elements);
    return *variable(&as_inputs, j);
}

// False for what there is no derivative of: a weight_decay of 0, the maximum without amsgrad.
static bool has_cotangent(const struct inputs *in, int j) {
    if (j == VARIABLES - 1) {
        return in->options.weight_decay != 0.0;
    }
    return j >= 5 * ELEMENTS || j % 5 != 4 || in->options.amsgrad;
}

// ----------------------------------------------------------------------------- central differences

// The results of a step (section 5.2 of the specification), each times its cotangent, added up.
static long double outcome(const struct inputs *in, const struct adamd_vjp_element *bars) {
    const struct adamd_options *o = &in->options;
    const long double b1 = o->betas[0];
    const long double b2 = o->betas[1];
    const long double c1 = 1.0L - powl(b1, (long double)in->t);
    const long double c2 = 1.0L - powl(b2, (long double)in->t);
    long double sum = 0.0L;

    for (int i = 0; i < in->count; i++) {
        const struct adamd_vjp_element *at = &in->elements[i];
        const bool l2 = o->weight_decay != 0.0 && !o->decoupled_weight_decay;
        const long double decay =
            o->decoupled_weight_decay ? (long double)o->lr * o->weight_decay : 0.0L;
        const long double q = (o->maximize ? -1.0L : 1.0L) * at->grad +
                              (l2 ? (long double)o->weight_decay * at->param : 0.0L);
        const long double m = b1 * at->exp_avg + (1.0L - b1) * q;
        const long double v = b2 * at->exp_avg_sq + (1.0L - b2) * q * q;
        const long double u =
            o->amsgrad && at->max_exp_avg_sq > v ? (long double)at->max_exp_avg_sq : v;
        const long double d = sqrtl(u) / sqrtl(c2) + o->eps;
        const long double theta = at->param * (1.0L - decay) - o->lr / c1 * m / d;
        sum += bars[i].param * theta + bars[i].exp_avg * m + bars[i].exp_avg_sq * v;
        sum += o->amsgrad ? bars[i].max_exp_avg_sq * u : 0.0L;
    }
    return sum;
}

START_TEST(every_derivative_is_the_quotient_of_differences)
{
    struct inputs in = scene_of(_i);
    struct adamd_vjp_element bars[ELEMENTS];

    draw_bars(_i, bars);
    const struct product got = product_of(&in, bars);
    for (int j = 0; j < VARIABLES; j++) {
        double *at = variable(&in, j);
        const double before = *at;
        if (!has_cotangent(&in, j)) {
            continue;
        }
        *at = before + 1e-6;
        const long double above = outcome(&in, bars);
        const double top = *at;
        *at = before - 1e-6;
        const long double below = outcome(&in, bars);
        const long double quotient = (above - below) / ((long double)top - *at);
        *at = before;
        assert_close(cotangent(&got, j), (double)quotient, 1e-6, 1e-9, "a derivative");
    }
    ck_assert_int_eq(got.options.has_weight_decay, in.options.weight_decay != 0.0);
}
END_TEST

// --------------------------------------------------------------------------------------- the tape

enum node_kind { LEAF, ADD, MULTIPLY, DIVIDE, ROOT, MAXIMUM, POWER };

// Operations as they were done, for going back through them.
struct tape {
    struct {
        enum node_kind kind;
        int a, b;
        double value, bar;
    } nodes[NODES_MAX];
    int count;
};

static int put(struct tape *tape, enum node_kind kind, int a, int b, double value) {
    ck_assert_int_lt(tape->count, NODES_MAX);
    tape->nodes[tape->count].kind = kind;
    tape->nodes[tape->count].a = a;
    tape->nodes[tape->count].b = b;
    tape->nodes[tape->count].value = value;
    tape->nodes[tape->count].bar = 0.0;
    return tape->count++;
}

static double value(const struct tape *tape, int node) {
    return tape->nodes[node].value;
}

static int leaf(struct tape *tape, double number) {
    return put(tape, LEAF, 0, 0, number);
}

static int add(struct tape *tape, int a, int b) {
    return put(tape, ADD, a, b, value(tape, a) + value(tape, b));
}

static int multiply(struct tape *tape, int a, int b) {
    return put(tape, MULTIPLY, a, b, value(tape, a) * value(tape, b));
}

static int divide(struct tape *tape, int a, int b) {
    return put(tape, DIVIDE, a, b, value(tape, a) / value(tape, b));
}

static int negate(struct tape *tape, int a) {
    return multiply(tape, leaf(tape, -1.0), a);
}

static int subtract(struct tape *tape, int a, int b) {
    return add(tape, a, negate(tape, b));
}

static int root(struct tape *tape, int a) {
    return put(tape, ROOT, a, a, sqrt(value(tape, a)));
}

static int maximum(struct tape *tape, int a, int b) {
    return put(tape, MAXIMUM, a, b, fmax(value(tape, a), value(tape, b)));
}

// a to the power of the number b.
static int power(struct tape *tape, int a, int b) {
    return put(tape, POWER, a, b, pow(value(tape, a), value(tape, b)));
}

static void back_through(struct tape *tape, int i) {
    const double bar = tape->nodes[i].bar;
    const int a = tape->nodes[i].a;
    const int b = tape->nodes[i].b;
    const double at = value(tape, a);
    const double by = value(tape, b);

    switch (tape->nodes[i].kind) {
    case LEAF:
        return;
    case ADD:
        tape->nodes[a].bar += bar;
        tape->nodes[b].bar += bar;
        return;
    case MULTIPLY:
        tape->nodes[a].bar += bar * by;
        tape->nodes[b].bar += bar * at;
        return;
    case DIVIDE:
        tape->nodes[a].bar += bar / by;
        tape->nodes[b].bar -= bar * (at / by) / by;
        return;
    case ROOT:
        tape->nodes[a].bar += bar / (2.0 * value(tape, i));
        return;
    case MAXIMUM:
        tape->nodes[at >= by ? a : b].bar += bar;
        return;
    case POWER:
        tape->nodes[a].bar += bar * by * pow(at, by - 1.0);
        return;
    }
}

// What the options are, as leaves.
struct option_nodes {
    int lr, b1, b2, eps, wd, t, one;
};

// One element through PyTorch's for-loop with differentiable=True: the order of 1.4.
static void step_element(struct tape *tape, const struct inputs *in, struct option_nodes o,
                         const int at[5], int results[4]) {
    const struct adamd_options *options = &in->options;
    const bool decays = options->weight_decay != 0.0;
    int theta = at[0];
    int g = options->maximize ? negate(tape, at[1]) : at[1];

    if (decays && options->decoupled_weight_decay) {
        theta = multiply(tape, theta, subtract(tape, o.one, multiply(tape, o.lr, o.wd)));
    } else if (decays) {
        g = add(tape, g, multiply(tape, o.wd, theta));
    }
    const int weight = subtract(tape, o.one, o.b1);
    const int m = add(tape, at[2], multiply(tape, weight, subtract(tape, g, at[2])));
    const int rest = subtract(tape, o.one, o.b2);
    const int v =
        add(tape, multiply(tape, at[3], o.b2), multiply(tape, rest, multiply(tape, g, g)));
    const int u = options->amsgrad ? maximum(tape, at[4], v) : v;
    const int c1 = subtract(tape, o.one, power(tape, o.b1, o.t));
    const int c2 = subtract(tape, o.one, power(tape, o.b2, o.t));
    const int n = negate(tape, divide(tape, o.lr, c1));
    const int d = add(tape, divide(tape, root(tape, u), multiply(tape, root(tape, c2), n)),
                      divide(tape, o.eps, n));

    results[0] = add(tape, theta, divide(tape, m, d));
    results[1] = m;
    results[2] = v;
    results[3] = u;
}

static void compare_with_tape(const struct inputs *in, const struct adamd_vjp_element *bars) {
    static struct tape tape;
    const struct product got = product_of(in, bars);
    struct inputs copy = *in;
    int nodes[VARIABLES];

    tape.count = 0;
    for (int j = 0; j < VARIABLES; j++) {
        nodes[j] = leaf(&tape, *variable(&copy, j));
    }
    const int *options = &nodes[5 * ELEMENTS];
    const struct option_nodes o = {options[0],      options[1], options[2],
                                   options[3],      options[4], leaf(&tape, (double)in->t),
                                   leaf(&tape, 1.0)};
    for (int i = 0; i < in->count; i++) {
        int results[4];
        step_element(&tape, in, o, &nodes[5 * i], results);
        tape.nodes[results[0]].bar += bars[i].param;
        tape.nodes[results[1]].bar += bars[i].exp_avg;
        tape.nodes[results[2]].bar += bars[i].exp_avg_sq;
        tape.nodes[results[3]].bar += in->options.amsgrad ? bars[i].max_exp_avg_sq : 0.0;
    }
    for (int i = tape.count; i > 0; i--) {
        back_through(&tape, i - 1);
    }
    for (int j = 0; j < VARIABLES; j++) {
        if (has_cotangent(in, j)) {
            assert_close(cotangent(&got, j), tape.nodes[nodes[j]].bar, 1e-12, 1e-13, "a cotangent");
        }
    }
}

START_TEST(every_cotangent_is_that_of_going_back_through_pytorchs_operations)
{
    const struct inputs in = scene_of(_i);
    struct adamd_vjp_element bars[ELEMENTS];

    draw_bars(_i, bars);
    compare_with_tape(&in, bars);
}
END_TEST

START_TEST(betas_of_zero_and_large_steps_are_differentiated_too)
{
    static const struct {
        double beta1, beta2;
        uint64_t t;
    } rows[] = {{0.0, 0.99, 1}, {0.0, 0.99, 2}, {0.9, 0.0, 1},          {0.9, 0.0, 5},
                {0.0, 0.0, 3},  {0.3, 0.5, 4},  {0.9, 0.999, 1u << 20}, {0.5, 0.999, 100}};
    struct adamd_vjp_element bars[ELEMENTS];

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct inputs in = scene_of(_i);
        in.options.betas[0] = rows[r].beta1;
        in.options.betas[1] = rows[r].beta2;
        in.t = rows[r].t;
        draw_bars(_i, bars);
        compare_with_tape(&in, bars);
    }
}
END_TEST

// ------------------------------------------------------------------------------------------- edges

static struct inputs single(double grad, double exp_avg, double exp_avg_sq, bool amsgrad) {
    return (struct inputs){
        .elements = {{1.0, grad, exp_avg, exp_avg_sq, 0.0}},
        .count = 1,
        .options = {.lr = 0.1, .betas = {0.9, 0.99}, .eps = 1e-3, .amsgrad = amsgrad},
        .t = 1,
    };
}

START_TEST(the_root_of_nothing_has_an_infinite_slope)
{
    const struct adamd_vjp_element bar = {.param = 1.0};
    struct inputs in = single(0.0, 0.5, 0.0, false);
    struct product got = product_of(&in, &bar);

    // A moment without a square: the denominator's slope is infinite, 0 times it is NaN.
    ck_assert(isinf(got.elements[0].exp_avg_sq) && got.elements[0].exp_avg_sq > 0.0);
    ck_assert(isnan(got.elements[0].grad));
    ck_assert(isfinite(got.elements[0].exp_avg));
    // Nothing at all, a fresh parameter with a gradient of zero: 0 / 0.
    in = single(0.0, 0.0, 0.0, false);
    got = product_of(&in, &bar);
    ck_assert(isnan(got.elements[0].exp_avg_sq));
    ck_assert(isnan(got.elements[0].grad));
    ck_assert_double_eq(got.elements[0].param, 1.0);
    ck_assert(isnan(got.options.betas[1]));
    ck_assert_double_eq(got.options.lr, 0.0);
}
END_TEST

START_TEST(a_tie_of_amsgrad_is_shared)
{
    const struct adamd_vjp_element bar = {.max_exp_avg_sq = 1.0};
    struct inputs in = single(0.5, 0.0, 0.0, true);

    in.options.betas[1] = 0.75; // the square is exact
    in.elements[0].max_exp_avg_sq = 0.0625;
    const struct product got = product_of(&in, &bar);
    ck_assert_double_eq(got.elements[0].max_exp_avg_sq, 0.5);
    ck_assert_double_eq(got.elements[0].exp_avg_sq, 0.375);
    ck_assert_double_eq(got.elements[0].grad, 0.125); // 2 * 0.25 * 0.5 * 0.5
}
END_TEST

START_TEST(the_smaller_of_a_maximum_gets_nothing_even_of_infinity)
{
    const struct adamd_vjp_element bar = {.param = INFINITY, .max_exp_avg_sq = 1.0};
    struct inputs in = single(0.5, 0.25, 0.5, true);

    in.elements[0].max_exp_avg_sq = 0.125;
    struct product got = product_of(&in, &bar);
    ck_assert_double_eq(got.elements[0].max_exp_avg_sq, 0.0);
    in.elements[0].max_exp_avg_sq = 8.0;
    got = product_of(&in, &bar);
    ck_assert_double_eq(got.elements[0].exp_avg_sq, 0.0);
}
END_TEST

START_TEST(a_weight_decay_of_zero_has_no_derivative)
{
    const struct adamd_vjp_element bar = {.param = 1.0};
    struct inputs in = single(0.5, 0.25, 0.5, false);

    ck_assert(!product_of(&in, &bar).options.has_weight_decay);
    ck_assert_double_eq(product_of(&in, &bar).options.weight_decay, 0.0);
    in.options.decoupled_weight_decay = true;
    ck_assert(!product_of(&in, &bar).options.has_weight_decay);
    in.options.weight_decay = 1e-300;
    ck_assert(product_of(&in, &bar).options.has_weight_decay);
    ck_assert_double_eq(product_of(&in, &bar).options.weight_decay, -0.1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("differentiate");
    TCase *tests = tcase_create("derivatives");
    const int vector_count = sizeof vectors / sizeof vectors[0];

    tcase_add_loop_test(tests, the_specifications_vectors_come_out, 0, vector_count);
    tcase_add_loop_test(tests, every_derivative_is_the_quotient_of_differences, 0, 48);
    tcase_add_loop_test(tests, every_cotangent_is_that_of_going_back_through_pytorchs_operations, 0,
                        48);
    tcase_add_loop_test(tests, betas_of_zero_and_large_steps_are_differentiated_too, 0, 16);
    tcase_add_test(tests, the_root_of_nothing_has_an_infinite_slope);
    tcase_add_test(tests, a_tie_of_amsgrad_is_shared);
    tcase_add_test(tests, the_smaller_of_a_maximum_gets_nothing_even_of_infinity);
    tcase_add_test(tests, a_weight_decay_of_zero_has_no_derivative);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
