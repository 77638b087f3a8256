"""Lets torchtitan, which asks for an accelerator, train on the CPU: import this before it.

torch calls the CPU an accelerator for it, and answers its questions about memory; nothing of torchtitan is changed.
"""

import types

import torch
import torch._utils
import torch.distributed

torch._utils._get_available_device_type = lambda: "cpu"
cpu = torch.cpu
cpu.get_device_name = lambda device=None: "CPU"
cpu.get_device_properties = lambda device=None: types.SimpleNamespace(total_memory=1 << 34)
cpu.reset_peak_memory_stats = cpu.empty_cache = lambda: None
cpu.memory_stats = lambda device=None: {}
cpu.current_device = lambda: 0  # torch says "cpu", and a process group's barrier takes numbers
if not hasattr(torch.distributed, "set_timeout"):  # of a later torch than 2.13
    torch.distributed.set_timeout = lambda timeout, group=None: None

from torch.distributed.fsdp import FSDPModule  # noqa: E402
from torch.nn.attention.flex_attention import create_block_mask, create_mask  # noqa: E402
from torchtitan.models.common import attention  # noqa: E402


def dense_attention(q, k, v, *, block_mask, scale, enable_gqa, **kwargs):
    """Stand in for compiled FlexAttention, which has no backward on the CPU: the same mask, held dense."""
    mask = create_mask(block_mask.mask_mod, q.shape[0], 1, q.shape[2], k.shape[2], device="cpu")
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
    return out, None


attention.FlexAttention._compiled_flex_attn = staticmethod(dense_attention)
attention._compiled_create_block_mask = create_block_mask


_divide = FSDPModule.set_gradient_divide_factor


def set_gradient_divide_factor(module, factor):
    """Let gloo add first, since it cannot multiply before."""
    module.set_force_sum_reduction_for_comms(True)
    _divide(module, factor)


FSDPModule.set_gradient_divide_factor = set_gradient_divide_factor
