// Goal: bad options get PyTorch's texts in PyTorch's order, and a step's scalars are the
// for-loop's.
#include "adamd/options.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

static const struct {
    struct adamd_options options;
    const char *field, *message;
} refused[] = {
#define GOOD .lr = 1e-3, .betas = {0.9, 0.999}, .eps = 1e-8
    {{.lr = -1.0, .betas = {0.9, 0.999}, .eps = -1.0}, "lr", "Invalid learning rate: -1.0"},
    {{.lr = -1e-5}, "lr", "Invalid learning rate: -1e-05"},
    {{.lr = -0.0001}, "lr", "Invalid learning rate: -0.0001"},
    {{.lr = -0.1}, "lr", "Invalid learning rate: -0.1"},
    {{.lr = -1.5e-7}, "lr", "Invalid learning rate: -1.5e-07"},
    {{.lr = -1e15}, "lr", "Invalid learning rate: -1000000000000000.0"},
    {{.lr = -1e16}, "lr", "Invalid learning rate: -1e+16"},
    {{.lr = -1.25e300}, "lr", "Invalid learning rate: -1.25e+300"},
    {{.lr = -123456.789}, "lr", "Invalid learning rate: -123456.789"},
    {{.lr = -0.30000000000000004}, "lr", "Invalid learning rate: -0.30000000000000004"},
    {{.lr = -5e-324}, "lr", "Invalid learning rate: -5e-324"},
    {{.lr = NAN}, "lr", "Invalid learning rate: nan"},
    {{.lr = -NAN}, "lr", "Invalid learning rate: nan"},
    {{.lr = -INFINITY}, "lr", "Invalid learning rate: -inf"},
    {{.lr = 0.1, .betas = {2.0, 2.0}, .eps = -1.0}, "eps", "Invalid epsilon value: -1.0"},
    {{.lr = 0.1, .eps = NAN}, "eps", "Invalid epsilon value: nan"},
    {{.betas = {1.0, 7.0}}, "betas[0]", "Invalid beta parameter at index 0: 1.0"},
    {{.betas = {-0.5, 0.0}}, "betas[0]", "Invalid beta parameter at index 0: -0.5"},
    {{.betas = {0.0, INFINITY}}, "betas[1]", "Invalid beta parameter at index 1: inf"},
    {{.betas = {0.9, 1.0}, .weight_decay = -1.0},
     "betas[1]",
     "Invalid beta parameter at index 1: 1.0"},
    {{GOOD, .weight_decay = -1.0, .fused = ADAMD_TRUE, .foreach = ADAMD_TRUE},
     "weight_decay",
     "Invalid weight_decay value: -1.0"},
    {{GOOD, .fused = ADAMD_TRUE, .foreach = ADAMD_TRUE, .differentiable = true},
     "fused",
     "`fused` does not support `differentiable`"},
    {{GOOD, .fused = ADAMD_TRUE, .foreach = ADAMD_TRUE},
     "fused",
     "`fused` and `foreach` cannot be `True` together."},
    // As Python spells ints.
    {{.lr = -1.0, .ints = ADAMD_NUMBER_LR}, "lr", "Invalid learning rate: -1"},
    {{.lr = -1e22, .ints = ADAMD_NUMBER_LR},
     "lr",
     "Invalid learning rate: -10000000000000000000000"},
    {{.eps = -2.0, .ints = ADAMD_NUMBER_EPS}, "eps", "Invalid epsilon value: -2"},
    {{.betas = {1.0, 0.0}, .ints = ADAMD_NUMBER_BETA0},
     "betas[0]",
     "Invalid beta parameter at index 0: 1"},
    {{.betas = {0.0, 1.0}, .ints = ADAMD_NUMBER_BETA1},
     "betas[1]",
     "Invalid beta parameter at index 1: 1"},
    {{.weight_decay = -1.0, .ints = ADAMD_NUMBER_WEIGHT_DECAY},
     "weight_decay",
     "Invalid weight_decay value: -1"},
    // Tensors: first of all lr, behind all numbers the betas.
    {{.lr = -1.0, .lr_is_tensor = true, .lr_elements = 2, .foreach = ADAMD_TRUE},
     "lr",
     "lr as a Tensor is not supported for capturable=False and foreach=True"},
    {{.lr = -1.0, .lr_is_tensor = true, .lr_elements = 2}, "lr", "Tensor lr must be 1-element"},
    {{.lr = -1.0,
      .lr_is_tensor = true,
      .lr_elements = 2,
      .capturable = true,
      .foreach = ADAMD_TRUE},
     "lr",
     "Tensor lr must be 1-element"},
    {{.lr = -0.10000000149011612, .lr_is_tensor = true, .lr_elements = 1},
     "lr",
     "Invalid learning rate: -0.10000000149011612"},
    {{GOOD, .weight_decay = -1.0, .betas_are_mixed = true},
     "weight_decay",
     "Invalid weight_decay value: -1.0"},
    {{GOOD, .betas_are_mixed = true}, "betas", "betas must be either both floats or both Tensors"},
    {{.ints = ADAMD_NUMBER_BETA0}, "betas", "betas must be either both floats or both Tensors"},
    {{.ints = ADAMD_NUMBER_BETA1}, "betas", "betas must be either both floats or both Tensors"},
    {{GOOD, .betas_are_tensors = true, .betas_elements = {2, 2}, .foreach = ADAMD_TRUE},
     "betas[0]",
     "betas[0] as a Tensor is not supported for capturable=False and foreach=True"},
    {{GOOD, .betas_are_tensors = true, .betas_elements = {2, 2}},
     "betas[0]",
     "Tensor betas[0] must be 1-element"},
    {{GOOD, .betas_are_tensors = true, .betas_elements = {1, 2}, .fused = ADAMD_TRUE,
      .foreach = ADAMD_TRUE, .capturable = true},
     "betas[1]",
     "Tensor betas[1] must be 1-element"},
    // PyTorch says this at the first step.
    {{GOOD, .foreach = ADAMD_TRUE, .differentiable = true},
     "foreach",
     "_foreach ops don't support autograd"},
};

START_TEST(what_pytorch_refuses_is_refused_in_its_words)
{
    struct adamd_fault fault;

    ck_assert_int_eq(adamd_options_check(&refused[_i].options, &fault), ADAMD_BAD_FIELD);
    ck_assert_int_eq(fault.status, ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, refused[_i].field);
    ck_assert_str_eq(fault.message, refused[_i].message);
    ck_assert_int_eq(adamd_options_check(&refused[_i].options, NULL), ADAMD_BAD_FIELD);
}
END_TEST

static const struct adamd_options accepted[] = {
    {GOOD},
    {GOOD, .weight_decay = 0.1, .amsgrad = true, .maximize = true, .decoupled_weight_decay = true},
    {GOOD, .foreach = ADAMD_TRUE},
    {GOOD, .fused = ADAMD_TRUE},
    {GOOD, .fused = ADAMD_TRUE, .foreach = ADAMD_FALSE},
    {.lr = 0.0, .betas = {0.0, 0.0}, .eps = 0.0},
    {.lr = -0.0},
    {.lr = INFINITY, .betas = {0.9, 0.999}, .eps = INFINITY, .weight_decay = INFINITY},
    {.lr = 1.0, .betas = {0.9999999999999999, 0.9999999999999999}},
    {GOOD, .capturable = true},
    {GOOD, .capturable = true, .foreach = ADAMD_TRUE},
    {GOOD, .capturable = true, .fused = ADAMD_TRUE},
    {GOOD, .differentiable = true},
    {GOOD, .differentiable = true, .foreach = ADAMD_FALSE, .fused = ADAMD_FALSE},
    {GOOD, .lr_is_tensor = true, .betas_are_tensors = true},
    {GOOD, .lr_is_tensor = true, .lr_elements = 1, .betas_are_tensors = true,
     .foreach = ADAMD_FALSE},
    {GOOD, .lr_is_tensor = true, .betas_are_tensors = true, .foreach = ADAMD_TRUE,
     .capturable = true},
    {GOOD, .lr_is_tensor = true, .betas_are_tensors = true, .fused = ADAMD_TRUE},
    {.lr = 0.0, .ints = ADAMD_NUMBER_LR | ADAMD_NUMBER_EPS | ADAMD_NUMBER_WEIGHT_DECAY},
};

START_TEST(what_pytorch_accepts_is_accepted)
{ ck_assert_int_eq(adamd_options_check(&accepted[_i], NULL), ADAMD_OK); }
END_TEST

START_TEST(a_tensors_value_is_its_float32)
{
    struct adamd_options options = adamd_options_default;

    options.lr = 0.1;
    adamd_options_round(&options);
    ck_assert_double_eq(options.lr, 0.1);
    options.lr_is_tensor = true;
    adamd_options_round(&options);
    ck_assert_double_eq(options.lr, 0.10000000149011612);
    ck_assert_double_eq(options.betas[0], 0.9);
    options.betas_are_tensors = true;
    adamd_options_round(&options);
    adamd_options_round(&options);
    ck_assert_double_eq(options.lr, 0.10000000149011612);
    ck_assert_double_eq(options.betas[0], 0.8999999761581421);
    ck_assert_double_eq(options.betas[1], 0.9990000128746033);
    ck_assert_double_eq(options.eps, 1e-8);
    // A beta just below 1 is none for float32.
    options.betas[1] = 0.99999999;
    adamd_options_round(&options);
    ck_assert_int_eq(adamd_options_check(&options, NULL), ADAMD_BAD_FIELD);
}
END_TEST

START_TEST(defaults_are_torch_optim_adams)
{
    const struct adamd_options *o = &adamd_options_default;

    ck_assert_double_eq(o->lr, 1e-3);
    ck_assert_double_eq(o->betas[0], 0.9);
    ck_assert_double_eq(o->betas[1], 0.999);
    ck_assert_double_eq(o->eps, 1e-8);
    ck_assert_double_eq(o->weight_decay, 0.0);
    ck_assert(!o->amsgrad && !o->maximize && !o->capturable && !o->differentiable);
    ck_assert(!o->decoupled_weight_decay);
    ck_assert_int_eq(o->foreach, ADAMD_NONE);
    ck_assert_int_eq(o->fused, ADAMD_NONE);
    ck_assert_uint_eq(o->ints, ADAMD_NUMBER_WEIGHT_DECAY); // 0, where AdamW has 0.01
    ck_assert(!o->lr_is_tensor && !o->betas_are_tensors);
}
END_TEST

// The right-hand sides are what Python prints for the same expressions.
START_TEST(a_rule_holds_the_for_loops_doubles)
{
    const struct adamd_options options = {.lr = 1e-2,
                                          .betas = {0.9, 0.999},
                                          .eps = 1e-8,
                                          .weight_decay = 0.1,
                                          .decoupled_weight_decay = true,
                                          .amsgrad = true};
    const struct adamd_rule first = adamd_rule_of(&options, 1);
    const struct adamd_rule third = adamd_rule_of(&options, 3);

    ck_assert_double_eq(first.lerp_weight, 0.09999999999999998);
    ck_assert_double_eq(first.one_minus_beta2, 0.0010000000000000009);
    ck_assert_double_eq(first.keep, 0.999);
    ck_assert_double_eq(-first.minus_step_size, 0.10000000000000002);
    ck_assert_double_eq_tol(-third.minus_step_size, 0.03690036900369005, 1e-17);
    ck_assert_double_eq_tol(third.root_correction, 0.05474487190596028, 1e-17);
    ck_assert_int_eq(first.decay, ADAMD_DECAY_DECOUPLED);
    ck_assert(first.amsgrad && !first.maximize);
}
END_TEST

// What PyTorch's expressions give where the step count, lr or the betas are tensors: float32.
START_TEST(tensors_make_float32_scalars)
{
    struct adamd_options options = {
        .lr = 1e-2, .betas = {0.9, 0.999}, .eps = 1e-8, .capturable = true};
    struct adamd_rule rule = adamd_rule_of(&options, 1);

    // 1 - 0.999f is 0.0009999871253967285, and its root times the negative step size -0.1f.
    ck_assert_double_eq(rule.minus_step_size, 1.0);
    ck_assert_double_eq_tol(rule.root_correction, -0.0031622573, 1e-9);
    ck_assert_double_eq_tol(rule.eps, -1e-7, 1e-13);
    ck_assert_double_eq(rule.divisor, 1.0);
    options.foreach = ADAMD_TRUE;
    rule = adamd_rule_of(&options, 1);
    ck_assert_double_eq(rule.root_correction, (double)sqrtf(1.0F - 0.999F));
    ck_assert_double_eq_tol(rule.divisor, -0.1, 1e-7);
    ck_assert_double_eq(rule.eps, 1e-8);
    options.fused = ADAMD_TRUE; // ignores it
    rule = adamd_rule_of(&options, 1);
    ck_assert_double_eq(-rule.minus_step_size, 0.10000000000000002);
    ck_assert_double_eq(rule.divisor, 1.0);

    options = (struct adamd_options){.lr = 1e-2,
                                     .betas = {0.9, 0.999},
                                     .eps = 1e-8,
                                     .weight_decay = 0.1,
                                     .decoupled_weight_decay = true,
                                     .lr_is_tensor = true,
                                     .betas_are_tensors = true};
    adamd_options_round(&options);
    rule = adamd_rule_of(&options, 3);
    ck_assert_double_eq(rule.keep, (double)(1.0F - 0.01F * 0.1F));
    ck_assert_double_eq(rule.one_minus_beta2, (double)(1.0F - 0.999F));
    ck_assert(rule.beta1_in_storage && !rule.scales_apart);
    ck_assert_double_eq(-rule.minus_step_size, (double)(0.01F / (1.0F - 0.9F * 0.9F * 0.9F)));
}
END_TEST

START_TEST(no_weight_decay_is_no_decay_at_all)
{
    struct adamd_options options = adamd_options_default;

    options.decoupled_weight_decay = true;
    ck_assert_int_eq(adamd_rule_of(&options, 1).decay, ADAMD_DECAY_NONE);
    options.weight_decay = 1e-300;
    ck_assert_int_eq(adamd_rule_of(&options, 1).decay, ADAMD_DECAY_DECOUPLED);
    options.decoupled_weight_decay = false;
    ck_assert_int_eq(adamd_rule_of(&options, 1).decay, ADAMD_DECAY_L2);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("options");
    TCase *tests = tcase_create("all");

    tcase_add_loop_test(tests, what_pytorch_refuses_is_refused_in_its_words, 0,
                        sizeof refused / sizeof refused[0]);
    tcase_add_loop_test(tests, what_pytorch_accepts_is_accepted, 0,
                        sizeof accepted / sizeof accepted[0]);
    tcase_add_test(tests, a_tensors_value_is_its_float32);
    tcase_add_test(tests, defaults_are_torch_optim_adams);
    tcase_add_test(tests, a_rule_holds_the_for_loops_doubles);
    tcase_add_test(tests, tensors_make_float32_scalars);
    tcase_add_test(tests, no_weight_decay_is_no_decay_at_all);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
