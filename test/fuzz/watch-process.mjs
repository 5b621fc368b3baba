// Loaded into the gateway before its own code: says at its end what was changed that everything inherits from.
const prototypes = [Object, Array, Function, String, Number, Boolean, Promise, Map, Error, RegExp].map(
  (each) => each.prototype,
)
const keysOf = () =>
  prototypes.flatMap((each, index) => Reflect.ownKeys(each).map((key) => `${index} ${String(key)}`))
const before = new Set(keysOf())
process.on('exit', () => {
  const added = keysOf().filter((key) => !before.has(key))
  console.log(`prototypes: ${added.length === 0 ? 'as they were' : added.join(', ')}`)
})
process.on('uncaughtExceptionMonitor', (error, origin) => console.log(`${origin}: ${error.stack}`))
