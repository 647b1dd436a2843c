"""What runs on the device: functions that kernels share, in modules that programs carry parts of as text
(`occ.codegen.triton.library`). Nothing imports them here."""
