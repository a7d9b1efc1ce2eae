// Hooks between messages and core: parameters go by the names of core's tables, so that each is
// written once there and once in the schema.
#include "codec/convert.h"

#include "codec/fields.h"
#include "codec/message.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// --------------------------------------------------------------------------------------------- in

static const struct adamd_parameter *find_parameter(enum adamd_action_kind kind, const char *name) {
    size_t count = 0;
    const struct adamd_parameter *table = adamd_action_parameters(kind, &count);

    for (size_t i = 0; i < count; i++) {
        if (strcmp(table[i].name, name) == 0 && !table[i].is_state) {
            return &table[i];
        }
    }
    return NULL;
}

static enum adamd_status fail_parameter(struct adamd_fault *fault, const char *name,
                                        const char *message, const char *value) {
    char field[64];

    (void)snprintf(field, sizeof field, "parameters.%s", name);
    return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s%.60s", message, value);
}

static enum adamd_status take_schedule(const char *name, uint64_t *to, struct adamd_fault *fault) {
    enum adamd_schedule_kind kind;

    if (!adamd_schedule_of(name, &kind)) {
        return fail_parameter(fault, "schedule",
                              "a schedule is constant, linear, cosine, exponential or step, not ",
                              name);
    }
    *to = kind;
    return ADAMD_OK;
}

static enum adamd_status take_text(const char *name, const char *text, char *to,
                                   struct adamd_fault *fault) {
    const size_t size = strlen(text);

    if (size > ADAMD_PLUGIN_TEXT_MAX) {
        return fail_parameter(fault, name, "a plugin's text has at most 1,023 bytes", "");
    }
    memcpy(to, text, size + 1);
    return ADAMD_OK;
}

static enum adamd_status take_value(const struct adamd_parameter *parameter, const void *from,
                                    struct adamd_action *action, struct adamd_fault *fault) {
    void *to = (char *)action + parameter->offset;

    switch (parameter->type) {
    case ADAMD_PARAMETER_DOUBLE:
        memcpy(to, from, sizeof(double));
        return ADAMD_OK;
    case ADAMD_PARAMETER_COUNT_TYPE:
        memcpy(to, from, sizeof(uint64_t));
        return ADAMD_OK;
    case ADAMD_PARAMETER_BOOL:
        *(bool *)to = *(const protobuf_c_boolean *)from != 0;
        return ADAMD_OK;
    case ADAMD_PARAMETER_SCHEDULE:
        return take_schedule(*(char *const *)from, to, fault);
    case ADAMD_PARAMETER_TEXT:
        return take_text(parameter->name, *(char *const *)from, to, fault);
    }
    return ADAMD_OK;
}

static bool is_set(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field) {
    return *(const uint32_t *)(const void *)((const char *)message + field->quantifier_offset) ==
           field->id;
}

static enum adamd_status take_parameters(const Adamd__V1__HookParameters *message,
                                         struct adamd_action *action, struct adamd_fault *fault) {
    const ProtobufCMessageDescriptor *type = message->base.descriptor;
    unsigned seen = 0;
    size_t count = 0;
    const struct adamd_parameter *table = adamd_action_parameters(action->kind, &count);

    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        const struct adamd_parameter *parameter = find_parameter(action->kind, field->name);
        enum adamd_status status;
        if (!is_set(&message->base, field)) {
            continue;
        }
        if (parameter == NULL) {
            return fail_parameter(fault, field->name, "this is no parameter of ",
                                  adamd_action_name(action->kind));
        }
        status = take_value(parameter, (const char *)message + field->offset, action, fault);
        if (status != ADAMD_OK) {
            return status;
        }
        seen |= 1U << (parameter - table);
    }
    for (size_t i = 0; i < count; i++) {
        if (table[i].is_required && (seen >> i & 1U) == 0) {
            return fail_parameter(fault, table[i].name, "is required of ",
                                  adamd_action_name(action->kind));
        }
    }
    return ADAMD_OK;
}

enum adamd_status codec_hook_read(const Adamd__V1__Hook *message, struct codec_hook *ret_hook,
                                  struct adamd_fault *fault) {
    static const Adamd__V1__HookParameters none = ADAMD__V1__HOOK_PARAMETERS__INIT;
    const Adamd__V1__HookParameters *parameters =
        message->parameters != NULL ? message->parameters : &none;
    struct codec_hook hook = {.prepend = message->prepend != 0};
    enum adamd_status status;

    if (message->action[0] == '\0') {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "action", "say which action the hook is");
    }
    hook.event = message->event == ADAMD__V1__HOOK__EVENT__EVENT_UNSPECIFIED
                     ? ADAMD_HOOK_EVENT_COUNT
                     : (enum adamd_hook_event)(message->event - 1);
    status = adamd_action_default(message->action, &hook.action, fault);
    status = status == ADAMD_OK ? take_parameters(parameters, &hook.action, fault) : status;
    status = status == ADAMD_OK ? adamd_action_check(&hook.action, fault) : status;
    if (status == ADAMD_OK) {
        *ret_hook = hook;
    }
    return status;
}

// -------------------------------------------------------------------------------------------- out

// Sets a field from core's value; state has no presence.
static bool put_value(struct codec_arena *arena, ProtobufCMessage *message,
                      const ProtobufCFieldDescriptor *field,
                      const struct adamd_parameter *parameter, const void *from) {
    void *to = (char *)message + field->offset;
    const char *text = NULL;

    switch (parameter->type) {
    case ADAMD_PARAMETER_DOUBLE:
        memcpy(to, from, sizeof(double));
        break;
    case ADAMD_PARAMETER_COUNT_TYPE:
        memcpy(to, from, sizeof(uint64_t));
        break;
    case ADAMD_PARAMETER_BOOL:
        *(protobuf_c_boolean *)to = *(const bool *)from ? 1 : 0;
        break;
    case ADAMD_PARAMETER_SCHEDULE:
        text = adamd_schedule_name((enum adamd_schedule_kind) * (const uint64_t *)from);
        break;
    case ADAMD_PARAMETER_TEXT:
        text = from;
        break;
    }
    if (text != NULL) {
        *(char **)to = codec_arena_copy(arena, text, strlen(text));
    }
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        *(uint32_t *)(void *)((char *)message + field->quantifier_offset) = field->id;
    }
    return text == NULL || *(char **)to != NULL;
}

// What says nothing about a schedule of this kind is left out.
static bool matters(const struct adamd_action *action, const char *name) {
    static const char *const of_kind[ADAMD_SCHEDULE_KIND_COUNT] = {
        [ADAMD_SCHEDULE_CONSTANT] = " factor total_iters ",
        [ADAMD_SCHEDULE_LINEAR] = " start_factor end_factor total_iters ",
        [ADAMD_SCHEDULE_COSINE] = " t_max eta_min ",
        [ADAMD_SCHEDULE_EXPONENTIAL] = " gamma ",
        [ADAMD_SCHEDULE_STEP] = " gamma step_size ",
    };
    char word[40];

    if (action->kind != ADAMD_LR_SCHEDULE || strncmp(name, "warmup_", 7) == 0 ||
        strcmp(name, "schedule") == 0 || strcmp(name, "position") == 0) {
        return true;
    }
    (void)snprintf(word, sizeof word, " %s ", name);
    return strstr(of_kind[action->lr_schedule.kind], word) != NULL;
}

static bool put_parameters(struct codec_arena *arena, const struct adamd_action *action,
                           Adamd__V1__Hook *message) {
    size_t count = 0;
    const struct adamd_parameter *table = adamd_action_parameters(action->kind, &count);

    for (size_t i = 0; i < count; i++) {
        ProtobufCMessage *to =
            table[i].is_state ? &message->state->base : &message->parameters->base;
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field_by_name(to->descriptor, table[i].name);
        ADAMD_ASSERT(field != NULL);
        if (matters(action, table[i].name) &&
            !put_value(arena, to, field, &table[i], (const char *)action + table[i].offset)) {
            return false;
        }
    }
    return true;
}

Adamd__V1__Hook *codec_hook_message(struct codec_arena *arena, const char *model_id,
                                    const struct adamd_action_view *view) {
    Adamd__V1__Hook *message = CODEC_NEW(arena, Adamd__V1__Hook, adamd__v1__hook);

    if (message == NULL) {
        return NULL;
    }
    message->name = codec_arena_format(arena, "models/%s/hooks/%" PRIu64, model_id, view->id);
    message->event = (Adamd__V1__Hook__Event)(view->event + 1);
    message->action = view->action->kind == ADAMD_PLUGIN
                          ? codec_arena_format(arena, "plugin:%s", view->action->plugin.plugin)
                          : (char *)adamd_action_name(view->action->kind);
    message->parameters = CODEC_NEW(arena, Adamd__V1__HookParameters, adamd__v1__hook_parameters);
    message->state = CODEC_NEW(arena, Adamd__V1__HookState, adamd__v1__hook_state);
    return message->name != NULL && message->action != NULL && message->parameters != NULL &&
                   message->state != NULL && put_parameters(arena, view->action, message)
               ? message
               : NULL;
}
