// Loaded into a gateway with --import: on SIGUSR2 its event loop stands still, as it would under a long synchronous task.
const ms = Number(process.env.BLOCK_MS)
process.on('SIGUSR2', () => {
  console.log('blocked')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
  console.log('goes on')
})
