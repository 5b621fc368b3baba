// Loaded into a gateway by NODE_OPTIONS: on SIGUSR2 it collects its garbage and prints what is left in use.
import { setTimeout as delay } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc')
let reports = 0
process.on('SIGUSR2', () => void report())

async function report() {
  collectGarbage()
  // Buffers are given back in the background.
  await delay(100)
  collectGarbage()
  console.log(`memory ${++reports} ${JSON.stringify(process.memoryUsage())}`)
}
