/* Preloaded into the server, it makes Triton's core believe in PRETEND_GPUS GPUs of compute capability 9.0.
 *
 * It stands in front of libcudart. Nothing is computed: "GPU" memory is the machine's own. Only what the core and the
 * Python backend call while they load a model is here; the rest stays with libcudart, which says that there is no GPU.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_DEVICE = 101, MAJOR_AT = 360, MINOR_AT = 364, PROPERTIES = 1032 };

static __thread int current;

static int count(void)
{
  const char* text = getenv("PRETEND_GPUS");
  return text ? atoi(text) : 0;
}

int cudaGetDeviceCount(int* devices)
{
  *devices = count();
  return *devices ? SUCCESS : 100;
}

/* cudaDeviceProp of CUDA 12: 1032 bytes, the compute capability at 360. */
int cudaGetDeviceProperties_v2(void* properties, int device)
{
  int32_t major = 9, minor = 0;
  if (device < 0 || device >= count()) return INVALID_DEVICE;
  memset(properties, 0, PROPERTIES);
  memcpy((char*)properties + MAJOR_AT, &major, sizeof major);
  memcpy((char*)properties + MINOR_AT, &minor, sizeof minor);
  return SUCCESS;
}

int cudaSetDevice(int device)
{
  if (device < 0 || device >= count()) return INVALID_DEVICE;
  current = device;
  return SUCCESS;
}

int cudaGetDevice(int* device)
{
  *device = current;
  return SUCCESS;
}

int cudaMemGetInfo(size_t* available, size_t* total)
{
  *available = *total = (size_t)80 << 30;
  return SUCCESS;
}

int cudaDeviceGetPCIBusId(char* id, int size, int device)
{
  (void)device;
  strncpy(id, "0000:00:00.0", (size_t)size);
  return SUCCESS;
}

int cudaMalloc(void** memory, size_t size)
{
  *memory = malloc(size);
  return *memory ? SUCCESS : 2;
}

int cudaHostAlloc(void** memory, size_t size, unsigned flags)
{
  (void)flags;
  return cudaMalloc(memory, size);
}

int cudaFree(void* memory)
{
  free(memory);
  return SUCCESS;
}

int cudaFreeHost(void* memory)
{
  return cudaFree(memory);
}

int cudaMemcpy(void* target, const void* source, size_t size, int kind)
{
  (void)kind;
  memcpy(target, source, size);
  return SUCCESS;
}

int cudaMemcpyAsync(void* target, const void* source, size_t size, int kind, void* stream)
{
  (void)stream;
  return cudaMemcpy(target, source, size, kind);
}

int cudaMemset(void* memory, int value, size_t size)
{
  memset(memory, value, size);
  return SUCCESS;
}

int cudaDeviceCanAccessPeer(int* can, int device, int peer)
{
  (void)device, (void)peer;
  *can = 1;
  return SUCCESS;
}

int cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
  (void)peer, (void)flags;
  return SUCCESS;
}

int cudaDeviceGetStreamPriorityRange(int* least, int* greatest)
{
  *least = 0;
  *greatest = -5;
  return SUCCESS;
}

int cudaStreamCreate(void** stream)
{
  *stream = NULL;
  return SUCCESS;
}

int cudaStreamCreateWithPriority(void** stream, unsigned flags, int priority)
{
  (void)flags, (void)priority;
  return cudaStreamCreate(stream);
}

int cudaStreamDestroy(void* stream)
{
  (void)stream;
  return SUCCESS;
}

int cudaStreamSynchronize(void* stream)
{
  (void)stream;
  return SUCCESS;
}

int cudaLaunchHostFunc(void* stream, void (*function)(void*), void* data)
{
  (void)stream;
  function(data);
  return SUCCESS;
}
