import type { ProblemCode } from '../errors.ts'
import type { HeaderName } from './headers.ts'

/** JSON Schema 2020-12, as OpenAPI 3.1 and AsyncAPI 3 have it. */
export type Schema = object | boolean

/** A body, in one media type. */
export interface Content {
  readonly schema: Schema
  /** Values by name; of text, the text. */
  readonly examples?: Readonly<Record<string, unknown>>
  /** What a stream is a sequence of. */
  readonly itemSchema?: Schema
}

export interface Answer {
  readonly description: string
  /** Those that always come. */
  readonly headers?: readonly HeaderName[]
  /** Those that may come. */
  readonly mayHave?: readonly HeaderName[]
  /** By media type; an answer without it has no body. */
  readonly content?: Readonly<Record<string, Content>>
}

/** What one route does, but for what its registration says already: path, scopes, and the problems that follow from these. */
export interface Operation {
  readonly id: string
  readonly tag: 'jobs' | 'events' | 'webhooks' | 'gateway'
  readonly summary: string
  /** Markdown. */
  readonly description?: string
  /** Schemas by name, each with a `description`. A page fills in their examples, so few have one. */
  readonly query?: Readonly<Record<string, object>>
  /** Which of these must be there. */
  readonly required?: readonly string[]
  readonly headers?: Readonly<Record<string, object>>
  readonly body?: Content & { readonly isRequired: boolean }
  /** By status. */
  readonly answers: Readonly<Record<number, Answer>>
  /** Those of this route alone. */
  readonly problems?: readonly ProblemCode[]
}

/** A reference to one of the shared schemas. */
export function ref(name: string): { readonly $ref: string } {
  return { $ref: `#/components/schemas/${name}` }
}

/** An answer's JSON. */
export function json(schema: Schema, examples?: Content['examples']): NonNullable<Answer['content']> {
  return { 'application/json': { schema, ...(examples && { examples }) } }
}
