"""One model: `loading` it from its files, its `placement` on devices, `forward` passes, and all of it in `single`."""
