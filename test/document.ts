import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

/** A part of a document, as far as tests look into it. */
export type Part = Readonly<Record<string, unknown>>

/** Whatever can be reached in a document, with its JSON Pointer. References are not followed. */
export function* partsOf(value: unknown, pointer = ''): Generator<readonly [pointer: string, part: Part]> {
  if (typeof value !== 'object' || value === null) return
  yield [pointer, value as Part]
  for (const [name, part] of Object.entries(value)) {
    yield* partsOf(part, `${pointer}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`)
  }
}

/** Validates by the schemas that stand in an OpenAPI or AsyncAPI document. */
export function createJudge(document: object) {
  const ajv = new Ajv2020({ strict: false, allErrors: true, validateSchema: false })
  addFormats.default(ajv)
  ajv.addSchema(document, 'document')

  /** @returns in which ways a value does not match the schema at a JSON Pointer */
  return (pointer: string, value: unknown): string[] => {
    const validate = ajv.getSchema(`document#${encodeURI(pointer)}`)
    if (!validate) throw new Error(`Expected a schema at ${pointer}, got none`)
    if (validate(value)) return []
    return (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`)
  }
}

/** The examples of the document that stand beside a schema, each with the schema's JSON Pointer. */
export function* examplesIn(document: object): Generator<readonly [pointer: string, example: unknown]> {
  for (const [pointer, { schema, example, examples }] of partsOf(document)) {
    if (schema === undefined) continue
    if (example !== undefined) yield [`${pointer}/schema`, example]
    for (const { value } of Object.values((examples ?? {}) as Record<string, { value: unknown }>)) {
      yield [`${pointer}/schema`, value]
    }
  }
}
