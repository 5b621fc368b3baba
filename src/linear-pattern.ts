import { createRequire } from 'node:module'
import type { RegExpEngine } from 'ajv/dist/types/index.js'
import type * as Re2js from 're2js'

/**
 * Steps that all patterns together may take for one input: characters times the size of a pattern's program, which is the
 * most that an engine without backtracking needs. What is larger than 64 instructions cannot be held against a whole body.
 */
const MAX_STEPS = 64 * 1_048_576

/** What ECMAScript takes for white space and line breaks (ECMA-262 section 12.2 and 12.3), as ranges of code points. */
const SPACES = [
  [0x09, 0x0d],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
] as const
const LAST_CODE_POINT = 0x10ffff
const space = classOf(SPACES)
const noSpace = classOf(
  [...SPACES, [LAST_CODE_POINT + 1]].map(([from], index) => [(SPACES[index - 1]?.[1] ?? -1) + 1, from - 1]),
)
const noLineBreak = String.raw`[^\n\r\x{2028}\x{2029}]`

/** One token of a pattern with the flag `u`, as far as it matters here. */
const token = /\[\^?\]|\[\^?|\\k<|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\.|[^]/gu

/** The steps that the input at hand has taken. */
export interface Budget {
  spent: number
}

/** An input's patterns need more steps than are allowed. */
export class BudgetExceeded extends Error {}

/** Loaded only where a type has patterns: every start would pay for it otherwise. */
let re2js: typeof Re2js | undefined

/**
 * An engine for ajv's patterns that takes time in proportion to the text, whatever the two are (RE2: no look-around, no
 * back-references), and that throws a {@link BudgetExceeded} rather than take too long. It refuses a pattern that it cannot
 * match in that way.
 *
 * @param budget to be set to 0 for each input
 */
export function createLinearEngine(budget: Budget): RegExpEngine {
  const compile = (pattern: string, flags: string) => {
    // RE2 has syntax of its own: what is not ECMAScript's is refused first.
    void new RegExp(pattern, flags)
    re2js ??= createRequire(import.meta.url)('re2js') as typeof Re2js
    const { RE2JS } = re2js
    const compiled = attempt(pattern, () => RE2JS.compile(RE2JS.translateRegExp(toRe2(pattern))))
    const size = compiled.programSize()
    return {
      test(text: string): boolean {
        budget.spent += (text.length + 1) * size
        if (budget.spent > MAX_STEPS) throw new BudgetExceeded(`Expected at most ${MAX_STEPS} steps`)
        return compiled.test(text)
      },
      // ajv knows patterns that it has seen by it.
      toString: () => pattern,
    }
  }
  return Object.assign(compile, { code: 'linear' })
}

function attempt<T>(pattern: string, compile: () => T): T {
  try {
    return compile()
  } catch (error) {
    const message = `Expected a pattern that takes linear time (RE2's syntax: no look-around, no back-references, no count above 1000)`
    throw new Error(`${message}, got ${pattern}: ${(error as Error).message}`, { cause: error })
  }
}

/** What differs between ECMAScript and RE2 though both know it: `.`, `\s`, an empty class, `[` in a class, surrogates. */
function toRe2(pattern: string): string {
  let isInClass = false
  return pattern.replace(token, (part) => {
    if (isInClass) {
      if (part === ']' || part === '[]' || part === '[^]') isInClass = false
      if (part.startsWith('[')) return part.replaceAll('[', '\\[')
      if (part === String.raw`\b`) return String.raw`\x08`
    } else {
      if (part === '[]') return `[^\\x00-\\x{10ffff}]`
      if (part === '[^]') return `[\\x00-\\x{10ffff}]`
      if (part.startsWith('[')) isInClass = true
      if (part === '.') return noLineBreak
      if (part.startsWith(String.raw`\k`)) throw new Error('a back-reference')
    }
    if (part.startsWith(String.raw`\u`) && part.length === 12) {
      const [high, low] = part.split(String.raw`\u`).slice(1)
      const character = String.fromCharCode(parseInt(high ?? '', 16), parseInt(low ?? '', 16))
      return `\\x{${character.codePointAt(0)?.toString(16)}}`
    }
    if (part === String.raw`\s`) return isInClass ? space : `[${space}]`
    if (part === String.raw`\S`) return isInClass ? noSpace : `[${noSpace}]`
    return part
  })
}

function classOf(ranges: readonly (readonly [number, number])[]): string {
  const hex = (codePoint: number) => `\\x{${codePoint.toString(16)}}`
  return ranges.map(([from, to]) => `${hex(from)}-${hex(to)}`).join('')
}
