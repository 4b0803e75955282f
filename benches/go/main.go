// Measures Go's context package: the same work as benches/targets.rs, under the same
// names; with the argument `pipelines`, that of benches/pipelines.rs. Each line is a name,
// a tab and the nanoseconds (for memory: the bytes) of one operation.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sort"
	"sync"
	"time"
)

const million = 1_000_000

var (
	sinkErr   error
	sinkValue any
	sinkCtx   context.Context
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "pipelines" {
		pipelines()
		return
	}
	// First, while the heap is empty.
	report("memory per live child (bytes)", memory(false))
	report("memory per waited-for child (bytes)", memory(true))

	background := context.Background()
	root, stop := context.WithCancel(background)
	defer stop()
	child, stopChild := context.WithCancel(root)
	defer stopChild()
	grandchild, stopGrandchild := context.WithCancel(child)
	defer stopGrandchild()

	report("is_done, live root", each(func() { sinkErr = root.Err() }))
	report("is_done, live child of a child", each(func() { sinkErr = grandchild.Err() }))
	report("err, live", each(func() { sinkErr = grandchild.Err() }))
	report("derive + cancel + drop", each(func() { derive(root) }))
	report("derive + cancel + drop, 2 threads", shared(root))
	report("with_timeout + cancel + drop", each(func() {
		_, cancel := context.WithTimeout(root, time.Hour)
		cancel()
	}))

	for _, waitedFor := range []bool{false, true} {
		kind := "children"
		if waitedFor {
			kind = "waited-for children"
		}
		report(fmt.Sprintf("cancel, 1000 %s", kind), median(9, func() float64 {
			return cancelChildren(1000, 100, waitedFor)
		}))
		report(fmt.Sprintf("cancel, %d %s", million, kind), median(3, func() float64 {
			return cancelChildren(million, 1, waitedFor)
		}))
	}
	report("life of 1000000 children", median(3, life))
	report("cancel + wake 100000 tasks", median(5, func() float64 { return wake(false) }))
	report("cancel + wake 100000 tasks, a child each", median(5, func() float64 { return wake(true) }))

	for _, depth := range []int{1, 64, 1024} {
		chains := make([]context.Context, 8)
		for bottom := range chains {
			chains[bottom] = chain(depth, bottom)
		}
		report(fmt.Sprintf("value, depth %d", depth), each(func() {
			for bottom, ctx := range chains {
				sinkValue = ctx.Value(key(bottom))
			}
		})/8)
	}
	one := context.WithValue(background, key(1), 7)
	report("with_value on top of 1 keys", each(func() { sinkCtx = context.WithValue(one, key(0), 7) }))

	timed, stopTimed := context.WithTimeout(background, time.Hour)
	defer stopTimed()
	report("err with a deadline", each(func() { sinkErr = timed.Err() }))
}

func report(name string, figure float64) {
	fmt.Printf("%s\t%.2f\n", name, figure)
}

func perOp(took time.Duration, times int) float64 {
	return float64(took.Nanoseconds()) / float64(times)
}

func median(rounds int, measure func() float64) float64 {
	figures := make([]float64, rounds)
	for i := range figures {
		runtime.GC()
		figures[i] = measure()
	}
	sort.Float64s(figures)
	return figures[rounds/2]
}

// each returns the nanoseconds of one op.
func each(op func()) float64 {
	times := 1
	once := func() time.Duration {
		start := time.Now()
		for i := 0; i < times; i++ {
			op()
		}
		return time.Since(start)
	}
	for once() < 30*time.Millisecond {
		times *= 2
	}
	return median(7, func() float64 { return perOp(once(), times) })
}

func derive(parent context.Context) {
	_, cancel := context.WithCancel(parent)
	cancel()
}

// shared derives in two goroutines at once, equally often.
func shared(parent context.Context) float64 {
	const times = 100_000
	return median(7, func() float64 {
		var ready, done sync.WaitGroup
		start := make(chan struct{})
		for i := 0; i < 2; i++ {
			ready.Add(1)
			done.Add(1)
			go func() {
				defer done.Done()
				ready.Done()
				<-start
				for i := 0; i < times; i++ {
					derive(parent)
				}
			}()
		}
		ready.Wait()
		began := time.Now()
		close(start)
		done.Wait()
		return perOp(time.Since(began), times)
	})
}

type node struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// grow makes children; a child that is waited for has its Done channel.
func grow(root context.Context, children []node, waitedFor bool) {
	for i := range children {
		ctx, cancel := context.WithCancel(root)
		if waitedFor {
			ctx.Done()
		}
		children[i] = node{ctx, cancel}
	}
}

// cancelChildren returns the time of cancel alone, per child.
func cancelChildren(count, times int, waitedFor bool) float64 {
	var took time.Duration
	children := make([]node, count)
	for i := 0; i < times; i++ {
		root, cancel := context.WithCancel(context.Background())
		grow(root, children, waitedFor)
		start := time.Now()
		cancel()
		took += time.Since(start)
	}
	runtime.KeepAlive(children)
	return perOp(took, times*count)
}

// life has no drop: that is the garbage collector's work, which counts as far as it runs meanwhile.
func life() float64 {
	start := time.Now()
	root, cancel := context.WithCancel(context.Background())
	children := make([]node, million)
	grow(root, children, false)
	cancel()
	for _, child := range children {
		if child.ctx.Err() == nil {
			panic("a live child of an ended parent")
		}
	}
	return perOp(time.Since(start), million)
}

// wake returns the time from cancel until all waiting goroutines have ended, per goroutine.
func wake(childEach bool) float64 {
	const count = 100_000
	root, cancel := context.WithCancel(context.Background())
	var ready, done sync.WaitGroup
	ready.Add(count)
	done.Add(count)
	for i := 0; i < count; i++ {
		go func() {
			defer done.Done()
			ctx := root
			if childEach {
				child, cancel := context.WithCancel(root)
				defer cancel()
				ctx = child
			}
			wait := ctx.Done()
			ready.Done()
			<-wait
		}()
	}
	ready.Wait()
	// The last of them may not be asleep yet.
	time.Sleep(20 * time.Millisecond)
	start := time.Now()
	cancel()
	done.Wait()
	return perOp(time.Since(start), count)
}

type key int

// chain has depth values under eight keys; the key bottom is at the bottom and there only.
func chain(depth, bottom int) context.Context {
	ctx := context.WithValue(context.Background(), key(bottom), 7)
	for layer := 1; layer < depth; layer++ {
		ctx = context.WithValue(ctx, key((bottom+1+layer%7)%8), layer)
	}
	return ctx
}

// memory returns the live bytes on the heap per child, including what holds it.
func memory(waitedFor bool) float64 {
	root, cancel := context.WithCancel(context.Background())
	defer cancel()
	before := heap()
	children := make([]node, million)
	grow(root, children, waitedFor)
	grown := heap() - before
	runtime.KeepAlive(children)
	return float64(grown) / million
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
