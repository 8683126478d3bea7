"""GPUs that plans are made for, by NVIDIA's data sheets and tuning guides."""

from typing import NamedTuple


class GPU(NamedTuple):
    """A GPU by NVIDIA's data sheets; the memory is what CUDA reports, less than on the box."""

    name: str
    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    lanes: int  # of float32 in each
    threads: int  # in each
    shared: int  # KiB in each
    l2: float  # MiB
    clock: float  # GHz, boost
    memory: float  # GiB
    bandwidth: float  # GB/s
    # TFLOP/s, dense, accumulated in float32; where the tensor cores have TF32, JAX uses it for
    # float32.
    float32: float
    half: float

    def half_precision(self) -> str:
        """Before Ampere, tensor cores know float16 only."""
        return "bfloat16" if self.capability >= (8, 0) else "float16"

    def description(self) -> str:
        """XLA's GpuTargetConfigProto, as text."""
        major, minor = self.capability
        shared = self.shared * 1024
        opt_in = shared - (1024 if major >= 8 else 0)  # the system's share since Ampere
        return f"""gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32
          shared_memory_per_block: 49152 shared_memory_per_core: {shared}
          shared_memory_per_block_optin: {opt_in} threads_per_core_limit: {self.threads}
          core_count: {self.cores} fpus_per_core: {self.lanes} block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535 block_dim_limit_z: 65535 registers_per_core_limit: 65536
          registers_per_block_limit: 65536 memory_bandwidth: {int(self.bandwidth * 1e9)}
          l2_cache_size: {int(self.l2 * 2**20)} clock_rate_ghz: {self.clock}
          device_memory_size: {int(self.memory * 2**30)}
          cuda_compute_capability {{ major: {major} minor: {minor} }} }} platform_name: "CUDA"
          dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 12 minor: 9 }}
          device_description_str: "{self.name}" """


# Shared memory, threads and caches: NVIDIA's tuning guides for each capability.
GPUS = {
    "rtx2080ti": GPU(
        name="NVIDIA GeForce RTX 2080 Ti",
        capability=(7, 5),
        cores=68,
        lanes=64,
        threads=1024,
        shared=64,
        l2=5.5,
        clock=1.545,
        memory=10.76,
        bandwidth=616,
        float32=13.4,
        half=53.8,
    ),
    "t4": GPU(
        name="Tesla T4",
        capability=(7, 5),
        cores=40,
        lanes=64,
        threads=1024,
        shared=64,
        l2=4,
        clock=1.59,
        memory=14.75,
        bandwidth=320,
        float32=8.1,
        half=65,
    ),
    "v100": GPU(
        name="Tesla V100-SXM2-16GB",
        capability=(7, 0),
        cores=80,
        lanes=64,
        threads=2048,
        shared=96,
        l2=6,
        clock=1.53,
        memory=15.77,
        bandwidth=900,
        float32=15.7,
        half=125,
    ),
    "rtx3090": GPU(
        name="NVIDIA GeForce RTX 3090",
        capability=(8, 6),
        cores=82,
        lanes=128,
        threads=1536,
        shared=100,
        l2=6,
        clock=1.695,
        memory=23.69,
        bandwidth=936,
        float32=35.6,
        half=71,
    ),
    "rtx4090": GPU(
        name="NVIDIA GeForce RTX 4090",
        capability=(8, 9),
        cores=128,
        lanes=128,
        threads=1536,
        shared=100,
        l2=72,
        clock=2.52,
        memory=23.64,
        bandwidth=1008,
        float32=82.6,
        half=165.2,
    ),
    "l4": GPU(
        name="NVIDIA L4",
        capability=(8, 9),
        cores=58,
        lanes=128,
        threads=1536,
        shared=100,
        l2=48,
        clock=2.04,
        memory=22.03,
        bandwidth=300,
        float32=60,
        half=121,
    ),
    "a100": GPU(
        name="NVIDIA A100-SXM4-40GB",
        capability=(8, 0),
        cores=108,
        lanes=64,
        threads=2048,
        shared=164,
        l2=40,
        clock=1.41,
        memory=39.39,
        bandwidth=1555,
        float32=156,
        half=312,
    ),
    "a100-80": GPU(
        name="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        cores=108,
        lanes=64,
        threads=2048,
        shared=164,
        l2=40,
        clock=1.41,
        memory=79.25,
        bandwidth=2039,
        float32=156,
        half=312,
    ),
    "h100": GPU(
        name="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        cores=132,
        lanes=128,
        threads=2048,
        shared=228,
        l2=50,
        clock=1.98,
        memory=79.1,
        bandwidth=3352,
        float32=494.7,
        half=989.4,
    ),
    "h200": GPU(
        name="NVIDIA H200",
        capability=(9, 0),
        cores=132,
        lanes=128,
        threads=2048,
        shared=228,
        l2=50,
        clock=1.98,
        memory=139.8,
        bandwidth=4800,
        float32=494.7,
        half=989.4,
    ),
}


def key_of(name: str) -> str:
    """The key in GPUS, or cpu, of a device by JAX's name for its kind; GPU if it is not there."""
    known = {gpu.name: key for key, gpu in GPUS.items()} | {"cpu": "cpu"}
    return known.get(name, "GPU")
