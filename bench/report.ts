import type { Figure, Row, Sample } from './figure.ts'
import type { Measured } from './alternate.ts'

type Compared = Pick<Measured, 'baseline' | 'quartet'>

interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** The figure as rows of a Markdown table. @returns whether all is reached that must be */
export function report(figure: Figure, measured: Compared): { lines: string[]; isMet: boolean } {
  const heading = [`**${figure.title}**`, '', '', '', '', '']
  const rows = figure.rows.map((row) => rowOf(row, measured))
  const lines = [heading, ...rows.map(({ cells }) => cells)].map((cells) => `| ${cells.join(' | ')} |`)
  return { lines, isMet: rows.every(({ isMet }) => isMet) }
}

export const head = ['| | baseline | Quartet | ratio | must be | |', '|---|---|---|---|---|---|']

function rowOf(
  { key, label, digits, must }: Row,
  { baseline, quartet }: Compared,
): { cells: string[]; isMet: boolean } {
  const [theirs, ours] = [valuesOf(baseline, key), valuesOf(quartet, key)]
  const ratios = spread(ours.flatMap((value, index) => value / (theirs[index] ?? NaN)))
  const isMet = must?.isMet({ ratio: ratios.median, quartet: spread(ours).median }) ?? true
  const cells = [
    label,
    show(spread(theirs), digits),
    show(spread(ours), digits),
    show(ratios, 2),
    must?.text ?? '',
    must ? (isMet ? 'reached' : '**missed**') : '',
  ]
  return { cells, isMet }
}

function valuesOf(samples: readonly Sample[], key: string): number[] {
  return samples.map((sample) => sample[key] ?? NaN)
}

/** Of an even number, the median is between the two in the middle. */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((one, other) => one - other)
  const middle = (sorted.length - 1) / 2
  const at = (index: number) => sorted[index] ?? NaN
  return {
    median: (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2,
    min: at(0),
    max: at(sorted.length - 1),
  }
}

function show({ median, min, max }: Spread, digits: number): string {
  if (Number.isNaN(median)) return '–'
  const text = (value: number) =>
    value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
  return min === max ? text(median) : `${text(median)} (${text(min)}–${text(max)})`
}
