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
        "NVIDIA GeForce RTX 2080 Ti",
        *((7, 5), 68, 64, 1024, 64, 5.5, 1.545, 10.76, 616, 13.4, 53.8),
    ),
    "t4": GPU("Tesla T4", (7, 5), 40, 64, 1024, 64, 4, 1.59, 14.75, 320, 8.1, 65),
    "v100": GPU("Tesla V100-SXM2-16GB", (7, 0), 80, 64, 2048, 96, 6, 1.53, 15.77, 900, 15.7, 125),
    "rtx3090": GPU(
        "NVIDIA GeForce RTX 3090",
        *((8, 6), 82, 128, 1536, 100, 6, 1.695, 23.69, 936, 35.6, 71),
    ),
    "rtx4090": GPU(
        "NVIDIA GeForce RTX 4090",
        *((8, 9), 128, 128, 1536, 100, 72, 2.52, 23.64, 1008, 82.6, 165.2),
    ),
    "l4": GPU("NVIDIA L4", (8, 9), 58, 128, 1536, 100, 48, 2.04, 22.03, 300, 60, 121),
    "a100": GPU(
        "NVIDIA A100-SXM4-40GB",
        *((8, 0), 108, 64, 2048, 164, 40, 1.41, 39.39, 1555, 156, 312),
    ),
    "a100-80": GPU(
        "NVIDIA A100-SXM4-80GB",
        *((8, 0), 108, 64, 2048, 164, 40, 1.41, 79.25, 2039, 156, 312),
    ),
    "h100": GPU(
        "NVIDIA H100 80GB HBM3",
        *((9, 0), 132, 128, 2048, 228, 50, 1.98, 79.10, 3352, 494.7, 989.4),
    ),
}
