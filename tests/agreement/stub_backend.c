/* A backend that does nothing: with it Triton's core judges the configs of backends that are not installed.
 *
 * Copied as backends/NAME/libtriton_NAME.so. The functions that it calls come from the server that loads it. It does
 * what the real ones do before they look into the model: it hands the config back as the completed one, wants the
 * model's file to be there, and as TensorRT's a GPU. Requests (warmup sends them) are answered, without outputs. As
 * identity and dali it does not ask for a file or complete a config, as those do not.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

extern void* TRITONSERVER_ErrorNew(int code, const char* message);
extern void* TRITONSERVER_MessageSerializeToJson(void* message, const char** text, size_t* size);
extern void* TRITONSERVER_MessageDelete(void* message);
extern void* TRITONBACKEND_ModelAutoCompleteConfig(void* model, _Bool* wanted);
extern void* TRITONBACKEND_ModelConfig(void* model, uint32_t version, void** message);
extern void* TRITONBACKEND_ModelSetConfig(void* model, uint32_t version, void* message);
extern void* TRITONBACKEND_ModelRepository(void* model, int* kind, const char** path);
extern void* TRITONBACKEND_ModelVersion(void* model, uint64_t* version);
extern void* TRITONBACKEND_ModelInstanceModel(void* instance, void** model);
extern void* TRITONBACKEND_ModelInstanceKind(void* instance, int* kind);
extern void* TRITONBACKEND_ResponseNew(void** response, void* request);
extern void* TRITONBACKEND_ResponseSend(void* response, uint32_t flags, void* error);
extern void* TRITONBACKEND_RequestRelease(void* request, uint32_t flags);

enum { NOT_FOUND = 2, INVALID_ARG = 3, KIND_GPU = 2, FINAL_RESPONSE = 1, RELEASE_ALL = 1 };

static int is_backend(const char* json, const char* name)
{
  char mark[64];
  snprintf(mark, sizeof mark, "\"backend\":\"%s\"", name);
  return strstr(json, mark) != NULL;
}

static int has_files(const char* json)
{
  return !is_backend(json, "identity") && !is_backend(json, "dali");
}

/* The string that follows `mark` in the JSON of a config, as far as it needs no unescaping; whether there is one. */
static int text_after(const char* json, const char* mark, char* value, size_t size)
{
  const char* found = json ? strstr(json, mark) : NULL;
  if (found == NULL) return 0;
  found += strlen(mark);
  size_t length = strcspn(found, "\"");
  if (length == 0 || length >= size) return 0;
  memcpy(value, found, length);
  value[length] = 0;
  return 1;
}

static void* check_file(void* model, const char* json)
{
  const char* folder;
  uint64_t version;
  int ignored;
  char name[1024], path[4096];
  struct stat info;

  TRITONBACKEND_ModelRepository(model, &ignored, &folder);
  TRITONBACKEND_ModelVersion(model, &version);
  /* The pretended GPU has compute capability 9.0. */
  const char* by_gpu = is_backend(json, "tensorrt") ? strstr(json, "\"cc_model_filenames\":{") : NULL;
  if (!text_after(by_gpu, "\"9.0\":\"", name, sizeof name) &&
      !text_after(json, "\"default_model_filename\":\"", name, sizeof name))
    return NULL;
  snprintf(path, sizeof path, "%s/%lld/%s", folder, (long long)version, name);
  return stat(path, &info) == 0 ? NULL : TRITONSERVER_ErrorNew(NOT_FOUND, "stub: the model's file is missing");
}

void* TRITONBACKEND_ModelInitialize(void* model)
{
  void *message, *error = TRITONBACKEND_ModelConfig(model, 1, &message);
  const char* json;
  size_t size;
  _Bool complete;

  if (error != NULL) return error;
  error = TRITONSERVER_MessageSerializeToJson(message, &json, &size);
  if (error == NULL) error = TRITONBACKEND_ModelAutoCompleteConfig(model, &complete);
  if (error == NULL && complete && has_files(json)) error = TRITONBACKEND_ModelSetConfig(model, 1, message);
  if (error == NULL && has_files(json)) error = check_file(model, json);
  TRITONSERVER_MessageDelete(message);
  return error;
}

void* TRITONBACKEND_ModelInstanceInitialize(void* instance)
{
  void *model, *message, *error;
  const char* json;
  size_t size;
  int kind;

  TRITONBACKEND_ModelInstanceModel(instance, &model);
  TRITONBACKEND_ModelInstanceKind(instance, &kind);
  error = TRITONBACKEND_ModelConfig(model, 1, &message);
  if (error != NULL) return error;
  error = TRITONSERVER_MessageSerializeToJson(message, &json, &size);
  if (error == NULL && kind != KIND_GPU && is_backend(json, "tensorrt"))
    error = TRITONSERVER_ErrorNew(INVALID_ARG, "stub: the TensorRT backend runs on GPUs only");
  TRITONSERVER_MessageDelete(message);
  return error;
}

void* TRITONBACKEND_ModelInstanceExecute(void* instance, void** requests, uint32_t count)
{
  (void)instance;
  for (uint32_t i = 0; i < count; i++) {
    void* response;
    TRITONBACKEND_ResponseNew(&response, requests[i]);
    TRITONBACKEND_ResponseSend(response, FINAL_RESPONSE, NULL);
    TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL);
  }
  return NULL;
}
