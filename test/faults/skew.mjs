// A machine whose clock is wrong: every Date of the process that imports this first is off by SKEW_MS.
const skew = Number(process.env.SKEW_MS)
const TrueDate = Date
globalThis.Date = class Date extends TrueDate {
  constructor(...args) {
    if (args.length === 0) super(TrueDate.now() + skew)
    else super(...args)
  }
  static now() {
    return TrueDate.now() + skew
  }
}
