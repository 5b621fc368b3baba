import type { Ajv2020 } from 'ajv/dist/2020.js'
import type { DataValidateFunction } from 'ajv/dist/types/index.js'
import { fullFormats } from 'ajv-formats/dist/formats.js'

/** ajv compares each item with each other, which takes seconds for some ten thousand objects. */
const areUnique: DataValidateFunction = (items: readonly unknown[]) => {
  const seen = new Map<string, number>()
  for (const [i, item] of items.entries()) {
    const text = canonical(item)
    const j = seen.get(text)
    if (j !== undefined) {
      const message = `must NOT have duplicate items (items ## ${j} and ${i} are identical)`
      areUnique.errors = [{ keyword: 'uniqueItems', message, params: { i, j } }]
      return false
    }
    seen.set(text, i)
  }
  return true
}

/** The same text for what is the same JSON value, whatever the order of its members. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const members = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return `{${members.map(([name, each]) => `${JSON.stringify(name)}:${canonical(each)}`).join(',')}}`
}

/**
 * The `url` of ajv-formats tries each colon as the end of a user name, and each space as the end of it all. Without white
 * space `\S+` is the user name, whatever colons are in it.
 */
const url = new RegExp(
  (fullFormats.url as RegExp).source.replace(String.raw`\S+(?::\S*)?@`, String.raw`\S+@`),
  'iu',
)

/** Has what ajv does in quadratic time done in time that is in proportion to the input. */
export function boundKeywords(ajv: Ajv2020): void {
  ajv.removeKeyword('uniqueItems')
  ajv.addKeyword({
    keyword: 'uniqueItems',
    type: 'array',
    schemaType: 'boolean',
    compile: (isAsked: boolean) => (isAsked ? areUnique : () => true),
  })
  ajv.addFormat('url', (text) => !/\s/.test(text) && url.test(text))
}
